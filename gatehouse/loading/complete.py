"""Loads everything a gateway needs: `gatehouse.yaml`, its key files and its secrets, all valid or none."""

from pathlib import Path

from gatehouse.config.model import Config
from gatehouse.config.problem import ConfigError, Problem
from gatehouse.files.watch import Mark, mark
from gatehouse.keys.peppers import hasher
from gatehouse.loading.key_file import fits, read_key_file
from gatehouse.loading.key_table import KeyRetention, KeyTable
from gatehouse.loading.load import Loaded, advised
from gatehouse.loading.upstream_keys import check_upstream_keys


class KeyFiles:
    """Key files, cached between reloads: each is read again only if it has changed, since it may have 100,000 keys."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[Mark | None, KeyTable]] = {}

    def check(self, main: Path, config: Config, keys: KeyTable) -> None:
        """Raises `ConfigError` with all problems of the key files of `config`, which is in `main`, as are `keys`."""
        others, problems, read = {str(main): keys}, list[Problem](), dict[str, tuple[Mark | None, KeyTable]]()
        for file in config.key_files:
            now = mark(Path(file))
            before, known = self._read.get(file, (None, None))
            try:
                unchanged = known is not None and now is not None and now == before and fits(known, config, others)
                others[file] = known if known and unchanged else read_key_file(Path(file), config, others)
                read[file] = now, others[file]
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
    loaded = advised(file, None, keys, in_force)
    (key_files or KeyFiles()).check(file, loaded.config, keys)
    hasher(loaded.config.keys)
    check_upstream_keys(loaded.config)
    return loaded
