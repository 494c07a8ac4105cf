"""A directory in which only this user can put anything, for the sockets by which one gateway takes over from another.

It can't be the run directory, which goes with its gateway, and not one of a known name in `/tmp`, which anybody could
make first.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from gatehouse.config.run_dir import DEFAULT_RUN_DIR
from gatehouse.contract.failures import GatehouseError

_NAME = ".gatehouse"
_SYSTEM = (Path(f"/run/user/{os.getuid()}"), Path("/run"), DEFAULT_RUN_DIR)
"""What systemd makes for a user who is logged in, what root has, and what our image has."""


class NoPrivateDirectoryError(GatehouseError):
    """Others could have a hand in every place there is."""


def private_directory() -> Path:
    """The directory, made if need be. Raises `NoPrivateDirectoryError`."""
    for parent in _candidates():
        try:
            if _only_ours(parent.stat(), stat.S_IWGRP | stat.S_IWOTH):
                return _made(parent / _NAME)
        except OSError:  # not there, or read-only: the next will do
            continue
    raise NoPrivateDirectoryError("no directory is writable for this user alone; let XDG_RUNTIME_DIR name one")


def _candidates() -> Iterator[Path]:
    """XDG Base Directory, `RuntimeDirectory=` of a systemd unit, the system's, and a home."""
    for variable in ("XDG_RUNTIME_DIR", "RUNTIME_DIRECTORY"):
        if named := os.environ.get(variable):
            yield Path(named.partition(":")[0])
    yield from (*_SYSTEM, Path("~").expanduser())


def _made(directory: Path) -> Path:
    directory.mkdir(mode=0o700, exist_ok=True)
    if not _only_ours(directory.lstat(), 0o077):
        raise NoPrivateDirectoryError(f"{directory} is no directory of this user alone; remove it")
    return directory


def _only_ours(found: os.stat_result, nobody_has: int) -> bool:
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & nobody_has
