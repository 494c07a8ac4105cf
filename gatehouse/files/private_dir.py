"""Private directories that live as long as their owner. If it was killed, the next process removes its directory.

An owner holds a lock on a file in its directory; the kernel releases it when the owner exits, however that happens.
"""

import fcntl
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)

_PREFIX = "gatehouse-"
_OWNER = ".owner"


@contextmanager
def private_directory() -> Iterator[Path]:
    """A temporary directory for this user only, removed at the end."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as name:
        path = Path(name)
        with (path / f"{_OWNER}.new").open("wb") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX)
            (path / f"{_OWNER}.new").rename(path / _OWNER)  # locked as long as it exists
            yield path


def sweep(among: Path, may_go: Callable[[Path], bool] = lambda _: True) -> None:
    """Remove this user's private directories in `among` whose owner is gone, if `may_go` agrees. Never raises."""
    for path in among.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # skip what can't be read or removed
            if _ours(path) and _owner_is_gone(path) and may_go(path):
                shutil.rmtree(path)
                log.info("removed %s: its owner was killed", path)


def _ours(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _owner_is_gone(path: Path) -> bool:
    """Raises `FileNotFoundError` if it never had an owner."""
    with (path / _OWNER).open("rb") as owner:
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
