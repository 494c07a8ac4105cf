"""Watches files for changes: by kernel events, and by a look each second for what causes no events.

Editors rename files, Kubernetes and Vault swap symbolic links (`..data`) in their paths, network file systems send no
events: so this compares where a path leads and what is there.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Container, Iterable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

log = logging.getLogger(__name__)

POLL_S = 1.0
_REST_S = 0.5
"""A file is complete if it was not written to for so long. It may be written in pieces, each of them valid."""
_LOOK_S = 0.05
LONGEST_UNREST_S = 10.0
"""A file that is still being written after that is read anyway; it will be read again."""

Mark = tuple[str, int, int, int, int]
"""Of a file: the resolved path, inode, mtime and ctime (ns), size."""

Fingerprint = Mapping[Path, Mark | None]


def mark(path: Path) -> Mark | None:
    """A value that changes when the file at `path`, or a link in that path, does. None: there is no file."""
    try:
        found = path.stat()
        return os.path.realpath(path), found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
    except OSError:
        return None


def fingerprint(paths: Iterable[Path]) -> Fingerprint:
    """The marks of all `paths`."""
    return {path: mark(path) for path in paths}


async def changed(seen: Fingerprint, poll_s: float = POLL_S, whole: Container[Path] = ()) -> None:
    """Waits until a file differs from its fingerprint in `seen`, and none is still being written.

    Those in `whole` are replaced atomically, so they are never half written.
    """
    if fingerprint(seen) == seen:
        async with aclosing(looks(seen, poll_s)) as moments:
            async for _ in moments:
                if fingerprint(seen) != seen:
                    break
    await _at_rest([path for path in seen if path not in whole])


async def _at_rest(paths: Sequence[Path]) -> None:
    """Wait for writers to finish: half a file may be valid, too."""
    began = since = time.monotonic()
    now = fingerprint(paths)
    while paths and time.monotonic() - began < LONGEST_UNREST_S:
        await asyncio.sleep(_LOOK_S)
        before, now = now, fingerprint(paths)
        if before != now:
            since = time.monotonic()
        elif time.monotonic() - since >= _REST_S or all(map(_rested, now.values())):
            break


def _rested(mark: Mark | None) -> bool:
    """By the file's mtime: a file prepared earlier and moved here is complete. A missing file may come back."""
    return mark is not None and time.time_ns() - mark[2] >= _REST_S * 1e9


async def looks(paths: Iterable[Path], poll_s: float = POLL_S) -> AsyncGenerator[None, None]:
    """Yields when it is time to look: on an event in the directory of one of `paths`, or after `poll_s`."""
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it logs each change, our own log files included
    folders = _folders(paths)
    wait_ms = int(poll_s * 1000)
    try:
        from watchfiles import awatch  # not every user of `mark` also waits for changes

        async for _ in awatch(
            *folders,
            watch_filter=None,
            recursive=False,
            step=20,
            debounce=100,
            rust_timeout=wait_ms,
            yield_on_timeout=True,
        ):
            yield
    except (OSError, ImportError, RuntimeError):
        pass  # no such directory, or too many watches or open files: polling suffices
    while True:
        await asyncio.sleep(poll_s)
        yield


def _folders(paths: Iterable[Path]) -> set[Path]:
    """The directories in which links and files can be swapped."""
    return {folder for path in paths for folder in (path.parent, Path(os.path.realpath(path)).parent)}
