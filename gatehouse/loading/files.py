"""`gatehouse.yaml` and its key files: read at the start, and again when they change.

If one key file has a problem, its last good keys stay. If `gatehouse.yaml` has one, or the files contradict each
other, nothing changes.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from gatehouse.config.model import Config
from gatehouse.config.problem import ConfigError, Problem
from gatehouse.files.watch import Fingerprint, Mark, mark
from gatehouse.keys.record import KeyRecord
from gatehouse.loading.complete import ReadKeys, key_file
from gatehouse.loading.gc_paused import uncollected
from gatehouse.loading.key_file import Others, fits
from gatehouse.loading.key_table import KeyRetention, KeyTable
from gatehouse.loading.load import load


@dataclass(frozen=True, slots=True)
class _Standing:
    """The active configuration and keys."""

    config: Config
    main: ReadKeys
    key_files: Mapping[Path, ReadKeys]

    @property
    def tables(self) -> list[KeyTable]:
        return [self.main.keys, *(read.keys for read in self.key_files.values())]

    def records(self) -> Mapping[str, KeyRecord]:
        tables = [table.records for table in self.tables if table.records]
        return tables[0] if len(tables) == 1 else dict(chain.from_iterable(table.items() for table in tables))

    def same_as(self, other: "_Standing | None") -> bool:
        """Whether nothing was re-read."""
        return other is not None and self.config is other.config and self.tables == other.tables


class Files:
    """`config` and `records` (of every key in a file, by digest) are from the last good files.

    `keep`: what to keep of keys; key files are read only for records. `seen`: fingerprints of the files when they were
    last read. `version` grows with every applied change.
    """

    def __init__(
        self, file: Path, keep: KeyRetention, environment: Mapping[str, str] | None = None, *, replaced: bool = False
    ) -> None:
        """`replaced`: `file` is only ever replaced atomically."""
        self.file = file
        self.whole = frozenset([file] if replaced else [])
        self.seen: Fingerprint = {}
        self.version = 0
        self._keep = keep
        self._environment = os.environ if environment is None else environment
        self._standing: _Standing | None = None

    @property
    def config(self) -> Config:
        return self._in_force.config

    @property
    def records(self) -> Mapping[str, KeyRecord]:
        return self._in_force.records()

    def load(self) -> Config:
        """The first read. Raises `ConfigError` with all problems of all files."""
        problems = self.reload()
        if problems:
            raise ConfigError(problems)
        return self.config

    def reload(self, *, everything: bool = False) -> list[Problem]:
        """Read the changed files and apply the good ones; returns the problems of the others, whose last state stays.

        `everything`: read unchanged files too.
        """
        before = _unread(self._standing) if everything and self._standing else self._standing
        look = _Look(self.file, self._keep, self._environment, before)
        with uncollected():
            standing = look.standing()
        self.seen = look.seen
        if standing is not None and not standing.same_as(self._standing):
            self._standing = standing
            self.version += 1
        return look.problems

    @property
    def _in_force(self) -> _Standing:
        assert self._standing is not None, "not loaded yet"
        return self._standing


def _unread(standing: _Standing) -> _Standing:
    """The same, but forces a re-read of all files."""
    key_files = {path: replace(read_, mark=None) for path, read_ in standing.key_files.items()}
    return replace(standing, main=replace(standing.main, mark=None), key_files=key_files)


@dataclass(slots=True)
class _Look:
    """One read of all files while `before` is active: their fingerprints and problems."""

    file: Path
    keep: KeyRetention
    environment: Mapping[str, str]
    before: _Standing | None
    seen: dict[Path, Mark | None] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def standing(self) -> _Standing | None:
        """The state to apply; None if old and new files do not fit together."""
        before = self.before.key_files if self.before else {}
        self.seen |= {path: mark(path) for path in before}
        found = self._main()
        if found is None:
            return None
        config, main = found
        others = {str(self.file): main.keys}
        key_files: dict[Path, ReadKeys] = {}
        wanted = [Path(path) for path in config.key_files if self.keep is KeyRetention.RECORDS]
        for path in wanted:
            read_ = self._key_file(path, before.get(path), config, others)
            if read_ is not None:
                key_files[path], others[str(path)] = read_, read_.keys
        return _Standing(config, main, key_files) if len(key_files) == len(wanted) else None

    def _main(self) -> tuple[Config, ReadKeys] | None:
        before, now = self.before, mark(self.file)
        self.seen[self.file] = now
        if before is not None and now is not None and before.main.mark == now:
            return before.config, before.main
        keys = KeyTable(self.keep, before.main.keys.records if before else None)
        try:
            config = load(self.file, self.environment, keys, before.config if before else None)
        except ConfigError as error:
            self.problems += error.problems
            return (before.config, replace(before.main, mark=None)) if before else None
        keys.forget_texts()
        return config, ReadKeys(keys, now)

    def _key_file(self, path: Path, before: ReadKeys | None, config: Config, others: Others) -> ReadKeys | None:
        now = self.seen[path] = mark(path)
        try:
            return key_file(path, now, before, config, others, self._known(before))
        except ConfigError as error:
            self.problems += error.problems
            good = before is not None and fits(before.keys, config, others)
            return replace(before, mark=None) if before is not None and good else None

    def _known(self, before: ReadKeys | None) -> Mapping[str, KeyRecord] | None:
        """Records to reuse. A renamed file may have the same content as before."""
        if before is not None:
            return before.keys.records
        return self.before.records() if self.before else None
