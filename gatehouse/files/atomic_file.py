"""Atomic and crash-safe replacement of files, and the lock that writers hold."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_POLL_S = 0.02


def replace_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace the content of `path` with `data`, readable only by its owner (0600).

    At every moment the path has the old content or the new; with `durable` the new one is on the disk on return. The
    caller holds the `lock` of `path`. Raises `OSError`; the old content then stays.
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
    """Sync the directory entries of `folder` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def own_like(descriptor: int, path: Path) -> None:
    """As root, give the file to the owner of `path`, or of its folder if `path` is new."""
    if os.geteuid() == 0:
        model = (path if path.exists() else path.parent).stat()
        os.fchown(descriptor, model.st_uid, model.st_gid)


@contextmanager
def lock(path: Path, patience_s: float) -> Iterator[None]:
    """The exclusive right to change `path`. The kernel releases the lock when its holder exits, however that happens.

    Raises `TimeoutError` if others hold it for longer than `patience_s`, and `OSError` if it can't be created.
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
