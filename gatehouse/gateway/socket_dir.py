"""A directory that only this user can write to, for the sockets by which one gateway takes over from another.

It can't be the run directory, which is removed with its gateway, nor one with a known name in `/tmp`, which another
user could create first.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from gatehouse.config.run_dir import DEFAULT_RUN_DIR
from gatehouse.contract.failures import GatehouseError

_NAME = ".gatehouse"
_SYSTEM = (Path(f"/run/user/{os.getuid()}"), Path("/run"), DEFAULT_RUN_DIR)
"""The directories of a logged-in user (systemd), of root, and of our image."""


class NoPrivateDirectoryError(GatehouseError):
    """Other users could write to every candidate directory."""


def private_directory() -> Path:
    """The directory, created if necessary. Raises `NoPrivateDirectoryError`."""
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
