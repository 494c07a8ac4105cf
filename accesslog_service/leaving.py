"""How a receiver leaves without losing an entry, while Envoy goes on.

Envoy never ends a log stream, and drops what it has for a receiver that is gone. So a receiver that is told to stop
first says that it is not serving, which Envoy's health checks notice; then it ends each stream when nothing is under
way on it, and Envoy opens its next one elsewhere.
"""

import asyncio
from collections.abc import Coroutine

from gatehouse.rpc.service import Health

NOTICE_S = 2.0
"""By then Envoy's health checks have seen that this receiver is leaving: two of them, half a second apart."""
NEXT_FLUSH_S = 0.5
"""Envoy flushes each of its streams several times a second."""
QUIET_S = 0.02
"""Silence that says: the flush is over, and there is time until the next."""
LAST_CALL_S = 4.0
"""A stream that is never quiet is ended all the same."""


class Leaving:
    """Ends the open streams after `stop` is set; `over` is set when the last of them has ended."""

    def __init__(self, stop: asyncio.Event, health: Health) -> None:
        self.over = asyncio.Event()
        self._stop = stop
        self._health = health
        self._noticed = asyncio.Event()
        self._streams = 0
        self._none_open = asyncio.Event()
        self._none_open.set()

    async def run(self) -> None:
        """Wait for `stop`, and see every stream to its end."""
        await self._stop.wait()
        self._health.serving = False
        await _within(NOTICE_S, self._none_open)
        self._noticed.set()
        await self._none_open.wait()
        self.over.set()

    async def end_of(self, reading: Coroutine[None, None, None], arrived: asyncio.Event) -> None:
        """Run `reading` of one stream to its end, or to the moment to leave. It sets `arrived` at every message.

        Raises what `reading` raises.
        """
        self._streams += 1
        self._none_open.clear()
        tasks = asyncio.ensure_future(reading), asyncio.ensure_future(self._moment_to_leave(arrived))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            self._streams -= 1
            if not self._streams:
                self._none_open.set()

    async def _moment_to_leave(self, arrived: asyncio.Event) -> None:
        """Just after a flush, or when none comes."""
        await self._noticed.wait()
        try:
            async with asyncio.timeout(LAST_CALL_S):
                arrived.clear()
                patience = NEXT_FLUSH_S
                while await _within(patience, arrived):
                    arrived.clear()
                    patience = QUIET_S
        except TimeoutError:
            return


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Whether `event` is set within `seconds`."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
