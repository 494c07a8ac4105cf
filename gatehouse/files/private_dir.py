"""Private directories that live as long as their process. Those of killed processes are removed by the next one.

The process holds a lock on a file in its directory, which the kernel releases when it ends, even by a crash.
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
    """A temporary directory for this user alone, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as name:
        path = Path(name)
        with (path / f"{_OWNER}.new").open("wb") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX)
            (path / f"{_OWNER}.new").rename(path / _OWNER)  # it is locked whenever it is there
            yield path


def sweep(among: Path, may_go: Callable[[Path], bool] = lambda _: True) -> None:
    """Remove this user's private directories in `among` whose process has ended, if `may_go` agrees. Never raises."""
    for path in among.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # what can't be looked at or removed is left
            if _ours(path) and _owner_is_gone(path) and may_go(path):
                shutil.rmtree(path)
                log.info("%s is removed: its owner was killed", path)


def _ours(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _owner_is_gone(path: Path) -> bool:
    """Raises `FileNotFoundError` for one that never had an owner."""
    with (path / _OWNER).open("rb") as owner:
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
