"""The configuration files on disk."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gatehouse.files import watch


@dataclass(frozen=True, slots=True)
class Source:
    """Where the files are: below `directory`; with `siblings` also beside it, in what is named `config.…` where the
    directory is `config`, as envoyproxy/ratelimit has it while it watches the root.

    What begins with `..` is skipped always: so Kubernetes names the folders behind a mounted ConfigMap, whose files
    would otherwise come twice.
    """

    directory: Path
    siblings: bool = False
    ignore_dot_files: bool = False

    def files(self) -> Iterator[Path]:
        """Every file, links followed, in the order of their names."""
        yield from self._below(self.directory)
        for path in self._siblings():
            if path.is_dir():
                yield from self._below(path)
            else:
                yield path

    def read(self) -> list[tuple[str, bytes]]:
        """The (name below `directory`, content) of each file; no files mean no limits. Raises `OSError`."""
        return [(os.path.relpath(path, self.directory), path.read_bytes()) for path in self.files()]

    def exists(self) -> bool:
        """Whether the directory exists. Without it there is no configuration at all."""
        return self.directory.is_dir() or (self.siblings and self.directory.parent.is_dir())

    def fingerprint(self) -> watch.Fingerprint:
        """Changes whenever a file does, or a link on the way to it."""
        return watch.fingerprint(self.files())

    def _below(self, directory: Path) -> Iterator[Path]:
        hidden = "." if self.ignore_dot_files else ".."
        for folder, folders, names in os.walk(directory, followlinks=True):
            folders[:] = sorted(name for name in folders if not name.startswith(hidden))
            yield from (Path(folder, name) for name in sorted(names) if not name.startswith(hidden))

    def _siblings(self) -> list[Path]:
        beside, prefix = self.directory.parent, f"{self.directory.name}."
        if not self.siblings or not beside.is_dir():
            return []
        return sorted(path for path in beside.iterdir() if path.name.startswith(prefix))
