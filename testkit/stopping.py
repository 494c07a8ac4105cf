"""Pauses processes for a while (SIGSTOP), then resumes them (SIGCONT)."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from testkit.redis_server import RedisServer


@contextmanager
def stopped(pids: Sequence[int]) -> Iterator[None]:
    """They are paused while the block runs."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def pauses(server: RedisServer, for_s: float = 0.2, every_s: float = 2.0) -> AsyncIterator[None]:
    """Redis stands still from time to time, and at once."""

    async def pause() -> None:
        while True:
            os.kill(server.process.pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(for_s)
            finally:
                os.kill(server.process.pid, signal.SIGCONT)
            await asyncio.sleep(every_s - for_s)

    pausing = asyncio.create_task(pause())
    try:
        yield
    finally:
        pausing.cancel()
        await asyncio.wait({pausing})
