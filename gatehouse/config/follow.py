"""Configuration files followed while a process runs: what is good is taken up, what is bad is told and counted."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from gatehouse.config.files import Files
from gatehouse.config.watch import POLL_S, changed
from gatehouse.metrics import Reloads

log = logging.getLogger(__name__)

MOST_PROBLEMS = 20
"""So many are logged: a file may have a hundred thousand."""


async def follow(files: Files, adopt: Callable[[], None], reloads: Reloads) -> None:
    """Reload `files` whenever they change, for ever; `adopt` is called after something new has been taken up."""
    while True:
        await changed(files.seen)
        before = files.version
        problems: Sequence[object]
        try:
            problems = await asyncio.to_thread(files.reload)
        except Exception as error:  # whatever it is, requests must go on being decided
            problems = [f"{type(error).__name__}; this is a mistake in the gateway"]
            await asyncio.sleep(POLL_S)
        if files.version != before:
            adopt()
            log.info("%s and its key files are in force as they are now", files.file)
        if problems:
            reloads.rejected.inc()
            for problem in problems[:MOST_PROBLEMS]:
                log.error("a change is not taken up: %s", problem)
        elif files.version != before:
            reloads.applied.inc()
