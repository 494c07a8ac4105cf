"""`gatehouse.yaml` and its key files as they stand: read at the start, and again when they change.

What is wrong with one key file leaves that file's keys as they were. What is wrong with `gatehouse.yaml`, or between
files, leaves everything as it was.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from gatehouse.config import rules
from gatehouse.config.key_file import clashes, read_key_file
from gatehouse.config.key_table import Keep, KeyTable
from gatehouse.config.load import read
from gatehouse.config.model import Config
from gatehouse.config.problem import ConfigError, Problem
from gatehouse.config.watch import Mark, mark
from gatehouse.keys.record import KeyRecord


@dataclass(frozen=True, slots=True)
class _Read:
    """A file as it was read. `mark`: how it looked then; None: it is to be read again whatever it looks like."""

    keys: KeyTable
    mark: Mark | None


@dataclass(frozen=True, slots=True)
class _Standing:
    """What is in force."""

    config: Config
    main: _Read
    key_files: Mapping[Path, _Read]

    def records(self) -> Mapping[str, KeyRecord]:
        tables = [self.main.keys.records, *(read.keys.records for read in self.key_files.values())]
        return tables[0] if len(tables) == 1 else dict(chain.from_iterable(table.items() for table in tables))


class Files:
    """`config` and `records` (of every key in a file, by digest) are what the last good files said.

    `keep` says what of keys is wanted. Only who wants records has key files read.
    """

    def __init__(self, file: Path, keep: Keep, environment: Mapping[str, str] | None = None) -> None:
        self.file = file
        self._keep = keep
        self._environment = os.environ if environment is None else environment
        self._standing: _Standing | None = None
        self._wanted: list[Path] = []

    @property
    def config(self) -> Config:
        return self._in_force.config

    @property
    def records(self) -> Mapping[str, KeyRecord]:
        return self._in_force.records()

    @property
    def paths(self) -> list[Path]:
        """The files to watch: those in force, and those that a refused configuration would have too."""
        return list(dict.fromkeys([self.file, *self._in_force.key_files, *self._wanted]))

    def load(self) -> Config:
        """Read everything for the first time. Raises `ConfigError` with all that is wrong with any of the files."""
        standing, problems = self._look()
        if problems or standing is None:
            raise ConfigError(problems)
        self._standing = standing
        return standing.config

    def reload(self) -> list[Problem]:
        """Read what has changed and take up what is good; the problems with the rest, which stays as it was."""
        standing, problems = self._look()
        if standing is not None:
            self._standing = standing
        return problems

    @property
    def _in_force(self) -> _Standing:
        assert self._standing is not None, "not loaded yet"
        return self._standing

    def _look(self) -> tuple[_Standing | None, list[Problem]]:
        """What could be in force now, and what is wrong. None: old and new would not fit together."""
        problems: list[Problem] = []
        found = self._main(problems)
        if found is None:
            return None, problems
        config, main = found
        others = {str(self.file): main.keys}
        key_files: dict[Path, _Read] = {}
        usable = True
        self._wanted = [Path(path) for path in config.key_files if self._keep is Keep.RECORDS]
        for path in self._wanted:
            read_ = self._key_file(path, config, others, problems)
            if read_ is None:
                usable = False
            else:
                key_files[path], others[str(path)] = read_, read_.keys
        return _Standing(config, main, key_files) if usable else None, problems

    def _main(self, problems: list[Problem]) -> tuple[Config, _Read] | None:
        before, now = self._standing, mark(self.file)
        if before is not None and now is not None and before.main.mark == now:
            return before.config, before.main
        keys = KeyTable(self._keep, before.main.keys.records if before else None)
        try:
            config = read(self.file, self._environment, keys)
        except ConfigError as error:
            problems += error.problems
            return (before.config, replace(before.main, mark=None)) if before else None
        keys.forget_texts()
        return config, _Read(keys, now)

    def _key_file(
        self, path: Path, config: Config, others: Mapping[str, KeyTable], problems: list[Problem]
    ) -> _Read | None:
        before = self._standing.key_files.get(path) if self._standing else None
        fits = before is not None and _fits(before.keys, config, others)
        now = mark(path)
        if before is not None and fits and now is not None and before.mark == now:
            return before
        try:
            return _Read(read_key_file(path, config, others, before.keys.records if before else None), now)
        except ConfigError as error:
            problems += error.problems
            return replace(before, mark=None) if before is not None and fits else None


def _fits(keys: KeyTable, config: Config, others: Mapping[str, KeyTable]) -> bool:
    """Whether keys that were good once still are, as the other files are now."""
    return not any(rules.key_faults(config, keys)) and not any(clashes(keys, others))
