"""The configuration files on disk."""

import os
from collections.abc import Iterator
from pathlib import Path

Fingerprint = frozenset[tuple[str, int, int, int]]
"""Of each file: its path, inode, time of change and size."""


def files(directory: Path, *, ignore_dot_files: bool = False) -> Iterator[Path]:
    """Every file below `directory`, links followed, in the order of their names.

    What begins with `..` is skipped always: so Kubernetes names the folders behind a mounted ConfigMap, whose files
    would otherwise come twice.
    """
    hidden = "." if ignore_dot_files else ".."
    for folder, folders, names in os.walk(directory, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(hidden))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith(hidden))


def read(directory: Path, *, ignore_dot_files: bool = False) -> list[tuple[str, str]]:
    """The (name below `directory`, text) of each file. Raises `OSError`; bytes that are no UTF-8 become `\\ufffd`."""
    found = files(directory, ignore_dot_files=ignore_dot_files)
    return [(str(path.relative_to(directory)), path.read_text("utf-8", "replace")) for path in found]


def fingerprint(directory: Path, *, ignore_dot_files: bool = False) -> Fingerprint:
    """Changes whenever a file does, or a link on the way to it. A file that vanishes meanwhile does not count."""
    return frozenset(_marks(directory, ignore_dot_files))


def _marks(directory: Path, ignore_dot_files: bool) -> Iterator[tuple[str, int, int, int]]:
    for path in files(directory, ignore_dot_files=ignore_dot_files):
        try:
            stat = path.stat()
        except OSError:
            continue
        yield str(path), stat.st_ino, stat.st_mtime_ns, stat.st_size
