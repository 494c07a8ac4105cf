"""Reloads configuration files while a process runs: good ones are applied, bad ones logged and counted."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from gatehouse.config.problem import Problem
from gatehouse.files.watch import POLL_S, changed
from gatehouse.loading.files import Files
from gatehouse.metrics import Reloads

log = logging.getLogger(__name__)

MOST_PROBLEMS = 20
"""The most problems to log: a file may have a hundred thousand."""


async def either(change: Awaitable[None], asked: asyncio.Event, limit_s: float | None) -> None:
    """Returns on a change, when `asked` is set, or after `limit_s`. Raises what waiting for the change raises."""
    waiting = asyncio.ensure_future(change), asyncio.ensure_future(asked.wait())
    try:
        done, _ = await asyncio.wait(waiting, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            each.result()
    finally:
        for each in waiting:
            each.cancel()


async def follow(files: Files, adopt: Callable[[], None], reloads: Reloads, asked: asyncio.Event) -> None:
    """Reload `files` when they change or `asked` is set, until cancelled; `adopt` is called after a change has been
    applied. A file that could not be read is retried."""
    again, told = False, object()
    while True:
        await either(changed(files.seen, whole=files.whole), asked, POLL_S if again else None)
        before, everything = files.version, asked.is_set()
        asked.clear()
        problems: Sequence[object]
        try:
            problems = await asyncio.to_thread(partial(files.reload, everything=everything))
        except Exception as error:  # no bug here may stop requests from being decided
            problems = [f"{type(error).__name__}; this is a bug in the gateway"]
            await asyncio.sleep(POLL_S)
        again = any(isinstance(problem, Problem) and problem.passing for problem in problems)
        if files.version != before:
            adopt()
            log.info("%s and its key files are applied", files.file)
        found = tuple(map(str, problems[:MOST_PROBLEMS])), dict(files.seen)
        if problems and found != told:
            reloads.rejected.inc()
            for problem in found[0]:
                log.error("a change is rejected: %s", problem)
        elif not problems and files.version != before:
            reloads.applied.inc()
        told = found
