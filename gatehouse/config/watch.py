"""Files that change while programs run: told by the kernel, and looked at each second for what it does not tell.

Editors rename, Kubernetes and Vault swap symbolic links (`..data`) on the way to a file, network file systems notify
nobody: what counts is where a path leads and what is there.
"""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path

POLL_S = 1.0
_REST_S = 0.05
_LONGEST_UNREST = 10
"""A file that is still being written after so many looks is read as it is; it will be read again."""

Mark = tuple[str, int, int, int]
"""Of a file: the path behind all links, its inode, time of change (ns) and size."""

Fingerprint = Mapping[Path, Mark | None]


def mark(path: Path) -> Mark | None:
    """Changes whenever the file at `path` does, or a link on the way to it. None: there is none."""
    try:
        found = path.stat()
        return os.path.realpath(path), found.st_ino, found.st_mtime_ns, found.st_size
    except OSError:
        return None


def fingerprint(paths: Iterable[Path]) -> Fingerprint:
    """The marks of `paths`."""
    return {path: mark(path) for path in paths}


async def changed(seen: Fingerprint, poll_s: float = POLL_S) -> None:
    """Waits until some file no longer looks as when it was `seen`, and all have come to rest."""
    if fingerprint(seen) == seen:
        async with aclosing(_looks(seen, poll_s)) as looks:
            async for _ in looks:
                if fingerprint(seen) != seen:
                    break
    await _at_rest(seen)


async def _at_rest(paths: Iterable[Path]) -> None:
    """A file that is being written may be valid in the middle, with half its content."""
    now = fingerprint(paths)
    for _ in range(_LONGEST_UNREST):
        await asyncio.sleep(_REST_S)
        before, now = now, fingerprint(paths)
        if before == now:
            break


async def _looks(paths: Iterable[Path], poll_s: float) -> AsyncGenerator[None, None]:
    """Yields when it is time to look: something has happened beside one of `paths`, or `poll_s` have passed."""
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
    except (OSError, ImportError, RuntimeError):
        pass  # a folder is not there, or there are too many watches or open files: looking suffices
    while True:
        await asyncio.sleep(poll_s)
        yield


def _folders(paths: Iterable[Path]) -> set[Path]:
    """Where links and files can be swapped."""
    return {folder for path in paths for folder in (path.parent, Path(os.path.realpath(path)).parent)}
