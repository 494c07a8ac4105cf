"""How long to wait for a store: work of our own is not taken for its slowness."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

LAG_S = 0.003
"""A timer of a free event loop is not later than this."""
ROUNDS = 20
"""However busy, nobody waits longer than so many times."""

T = TypeVar("T")


class Patience:
    """Waits for answers, each for `within_s` at a time.

    Where many ask at once, most of the wait is for this process itself. So the time begins anew while other answers
    come in, and when the event loop was too busy to look.
    """

    def __init__(self) -> None:
        self._answers = 0

    async def wait_for(self, answer: Awaitable[T], within_s: float) -> T:
        """The answer. Raises `TimeoutError` when none came in time, and what `answer` raises."""
        async with asyncio.timeout(None) as limit:
            watch = _Watch(within_s, limit, lambda: self._answers)
            try:
                found = await answer
            finally:
                watch.end()
        self._answers += 1
        return found


class _Watch:
    """Looks after `within_s` whether to go on; it is a timer and no task, because every request has one."""

    def __init__(self, within_s: float, limit: asyncio.Timeout, answers: Callable[[], int]) -> None:
        self._within_s = within_s
        self._limit = limit
        self._answers = answers
        self._loop = asyncio.get_running_loop()
        self._rounds = 0
        self._begin()

    def end(self) -> None:
        self._timer.cancel()

    def _begin(self) -> None:
        self._began, self._seen = self._loop.time(), self._answers()
        self._timer = self._loop.call_later(self._within_s, self._look)

    def _look(self) -> None:
        self._rounds += 1
        late = self._loop.time() - self._began >= self._within_s + LAG_S
        if (late or self._answers() != self._seen) and self._rounds < ROUNDS:
            self._begin()
        else:
            self._limit.reschedule(self._loop.time())
