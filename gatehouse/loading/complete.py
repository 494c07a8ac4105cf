"""Loads everything a gateway needs: `gatehouse.yaml`, its key files and its secrets, all valid or none."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gatehouse.config.model import Config
from gatehouse.config.problem import ConfigError, Problem
from gatehouse.files.watch import Mark, mark
from gatehouse.keys.peppers import hasher
from gatehouse.keys.record import KeyRecord
from gatehouse.loading.key_file import Others, fits, read_key_file
from gatehouse.loading.key_table import KeyRetention, KeyTable
from gatehouse.loading.load import Loaded, load_with_advice
from gatehouse.loading.upstream_keys import check_upstream_keys


@dataclass(frozen=True, slots=True)
class ReadKeys:
    """The keys of a file as they were read. `mark`: how it looked then; None forces a re-read."""

    keys: KeyTable
    mark: Mark | None


def key_file(
    path: Path,
    now: Mark | None,
    before: ReadKeys | None,
    config: Config,
    others: Others,
    known: Mapping[str, KeyRecord] | None = None,
) -> ReadKeys:
    """The keys in `path`, which looks `now` so: those read `before`, if it has not changed and they still fit.

    It may have 100,000 keys. Otherwise as `read_key_file`, which raises `ConfigError`.
    """
    if before is not None and now is not None and now == before.mark and fits(before.keys, config, others):
        return before
    return ReadKeys(read_key_file(path, config, others, known), now)


class KeyFiles:
    """Key files, cached between reloads: each is read again only if it has changed, since it may have 100,000 keys."""

    def __init__(self) -> None:
        self._read: dict[str, ReadKeys] = {}

    def check(self, main: Path, config: Config, keys: KeyTable) -> None:
        """Raises `ConfigError` with all problems of the key files of `config`, which is in `main`, as are `keys`."""
        others, problems, read = {str(main): keys}, list[Problem](), dict[str, ReadKeys]()
        for file in config.key_files:
            try:
                read[file] = key_file(Path(file), mark(Path(file)), self._read.get(file), config, others)
                others[file] = read[file].keys
            except ConfigError as error:
                problems += error.problems
        self._read |= read
        if problems:
            raise ConfigError(problems)
        self._read = read


def load_whole(file: Path, in_force: Config | None = None, key_files: KeyFiles | None = None) -> Loaded:
    """Everything a gateway runs with. Raises `ConfigError` with all problems of all files.

    `in_force`: the active configuration, some fields of which can't change. `key_files`: cache of the key files.
    """
    keys = KeyTable(KeyRetention.RECORDS)
    loaded = load_with_advice(file, None, keys, in_force)
    (key_files or KeyFiles()).check(file, loaded.config, keys)
    hasher(loaded.config.keys)
    check_upstream_keys(loaded.config)
    return loaded
