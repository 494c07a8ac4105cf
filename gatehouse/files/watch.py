"""Detects changed files: by notifications of the kernel, and by polling each second for changes without one.

Editors rename files, Kubernetes and Vault swap symbolic links (`..data`) on the path, network file systems send no
notifications: what counts is where a path leads, and the file there.
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
"""A file not written to for this long is complete. A writer may write it in pieces, each of them valid."""
_LOOK_S = 0.05
LONGEST_UNREST_S = 10.0
"""A file that is still being written after that is read as it is; it will be read again."""

Mark = tuple[str, int, int, int, int]
"""Of a file: the path behind all links, its inode, times (ns) of the last change of content and of anything, size."""

Fingerprint = Mapping[Path, Mark | None]


def mark(path: Path) -> Mark | None:
    """Changes whenever the file at `path` does, or a link on the way to it. None: there is none."""
    try:
        found = path.stat()
        return os.path.realpath(path), found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
    except OSError:
        return None


def fingerprint(paths: Iterable[Path]) -> Fingerprint:
    """The marks of all `paths`."""
    return {path: mark(path) for path in paths}


async def changed(seen: Fingerprint, poll_s: float = POLL_S, whole: Container[Path] = ()) -> None:
    """Waits until a file differs from when it was `seen`, and none is still being written.

    Files in `whole` are replaced atomically by their writers, so they are never partly written.
    """
    if fingerprint(seen) == seen:
        async with aclosing(looks(seen, poll_s)) as moments:
            async for _ in moments:
                if fingerprint(seen) != seen:
                    break
    await _at_rest([path for path in seen if path not in whole])


async def _at_rest(paths: Sequence[Path]) -> None:
    """A file that is being written may be valid in the middle, with half its content."""
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
    """By the file's own time: what was prepared elsewhere and put here may be old. What is gone may come back."""
    return mark is not None and time.time_ns() - mark[2] >= _REST_S * 1e9


async def looks(paths: Iterable[Path], poll_s: float = POLL_S) -> AsyncGenerator[None, None]:
    """Yields when files should be checked: after an event in a folder of `paths`, or after `poll_s`."""
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of each change, our own log's files included
    folders = _folders(paths)
    wait_ms = int(poll_s * 1000)
    try:
        from watchfiles import awatch  # not everybody who takes marks also waits

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
    except (OSError, ImportError, RuntimeError) as error:  # a folder is not there, or there are too many watches
        log.info("%s not watched (%s): looked at every %g s", ", ".join(map(str, folders)), error, poll_s)
    while True:
        await asyncio.sleep(poll_s)
        yield


def _folders(paths: Iterable[Path]) -> set[Path]:
    """Where links and files can be swapped."""
    return {folder for path in paths for folder in (path.parent, Path(os.path.realpath(path)).parent)}
