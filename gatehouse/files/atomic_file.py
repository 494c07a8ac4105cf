"""Files that change as a whole or not at all, whatever dies, and the lock of those who change them."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_POLL_S = 0.02


def replace_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Put `data` in the place of what `path` holds, readable for its owner alone (0600).

    At every moment the path has the old content or the new; with `durable` the new one is on the disk on return. Who
    calls holds the `lock` of `path`. Raises `OSError`, with the old content in place.
    """
    new = path.with_name(f"{path.name}.new")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            own_like(descriptor, path)
            write_all(descriptor, data)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        new.replace(path)
    except OSError:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def sync_folder(folder: Path) -> None:
    """Return once the names in `folder` are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def own_like(descriptor: int, path: Path) -> None:
    """What root writes for others belongs to whom `path` belongs, or its folder where it is new."""
    if os.geteuid() == 0:
        model = (path if path.exists() else path.parent).stat()
        os.fchown(descriptor, model.st_uid, model.st_gid)


@contextmanager
def lock(path: Path, patience_s: float) -> Iterator[None]:
    """Be the only one who changes `path`. The lock goes with its holder, however that one ends.

    Raises `TimeoutError` when others hold it for longer than `patience_s`, and `OSError` when it can't be had at all.
    """
    file = path.with_name(f"{path.name}.lock")
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        own_like(descriptor, path)
        _take(descriptor, time.monotonic() + patience_s)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, deadline: float) -> None:
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TimeoutError("another process is changing it") from None
            time.sleep(_POLL_S)
