"""A configuration as a gateway needs it: `gatehouse.yaml` with its key files and secrets, all good, or none of it."""

from pathlib import Path

from gatehouse.config.key_file import check_key_files
from gatehouse.config.key_table import Keep, KeyTable
from gatehouse.config.load import Loaded, advised
from gatehouse.config.model import Config
from gatehouse.config.upstream_keys import check_upstream_keys
from gatehouse.keys.peppers import hasher


def load_whole(file: Path, in_force: Config | None = None) -> Loaded:
    """Everything that is to run. Raises `ConfigError` with all that is wrong in any of its files.

    `in_force`: what runs now, which limits what can change. Keys are checked, not kept.
    """
    keys = KeyTable(Keep.RECORDS)
    loaded = advised(file, None, keys, in_force)
    check_key_files(file, loaded.config, keys)
    hasher(loaded.config.keys)
    check_upstream_keys(loaded.config)
    return loaded
