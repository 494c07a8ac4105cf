"""A directory that only this user can write to, for the sockets by which one gateway takes over from another.

It can't be the run directory, which its gateway removes, nor a fixed name in `/tmp`, which any user could create first.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from gatehouse.config.run_dir import DEFAULT_RUN_DIR
from gatehouse.contract.failures import GatehouseError

_NAME = ".gatehouse"
_SYSTEM = (Path(f"/run/user/{os.getuid()}"), Path("/run"), DEFAULT_RUN_DIR)
"""Systemd's for a logged-in user, root's, and our image's."""


class NoPrivateDirectoryError(GatehouseError):
    """Other users can write to all candidate directories."""


def private_directory() -> Path:
    """The directory, created if missing. Raises `NoPrivateDirectoryError`."""
    for parent in _candidates():
        try:
            if _only_ours(parent.stat(), stat.S_IWGRP | stat.S_IWOTH):
                return _made(parent / _NAME)
        except OSError:  # missing or read-only: try the next
            continue
    raise NoPrivateDirectoryError("no directory is writable by this user only; set XDG_RUNTIME_DIR to one")


def _candidates() -> Iterator[Path]:
    """XDG Base Directory, `RuntimeDirectory=` of a systemd unit, the system's, and the home directory."""
    for variable in ("XDG_RUNTIME_DIR", "RUNTIME_DIRECTORY"):
        if named := os.environ.get(variable):
            yield Path(named.partition(":")[0])
    yield from (*_SYSTEM, Path("~").expanduser())


def _made(directory: Path) -> Path:
    directory.mkdir(mode=0o700, exist_ok=True)
    if not _only_ours(directory.lstat(), 0o077):
        raise NoPrivateDirectoryError(f"{directory} is not a private directory of this user; remove it")
    return directory


def _only_ours(found: os.stat_result, nobody_has: int) -> bool:
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & nobody_has
