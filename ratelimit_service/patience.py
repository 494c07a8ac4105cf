"""How long to wait for a store: work of our own is not taken for its slowness."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

LAG_S = 0.003
"""A timer of a free event loop is not later than this."""
ROUNDS = 20
"""However busy, nobody waits longer than so many times."""
_TICKS = 4
"""Of the event loop, from an answer's arrival in the socket until somebody has read it."""

T = TypeVar("T")


class Patience:
    """Waits for answers, each for `within_s` at a time.

    Where many ask at once, most of the wait is for this process itself. So the time begins anew while other answers
    come in, when the event loop was too busy to look, and when an answer had come that nobody had read yet. `answers`
    counts what the store has said to anyone; without it, only the answers that were waited for here count.
    """

    def __init__(self, answers: Callable[[], int] | None = None) -> None:
        self._waited_for = 0
        self._answers = answers or (lambda: self._waited_for)

    async def wait_for(self, answer: Awaitable[T], within_s: float) -> T:
        """The answer. Raises `TimeoutError` when none came in time, and what `answer` raises."""
        watch = _Watch(within_s, self._answers)
        try:
            found = await answer
        except BaseException as error:
            if watch.end() and isinstance(error, asyncio.CancelledError):
                raise TimeoutError from None
            raise
        watch.end()
        self._waited_for += 1
        return found


class _Watch:
    """Looks after `within_s` whether to go on; it is a timer and no task, because every request has one. What it does
    to the task that waits is what `asyncio.timeout` does, which costs three times as much."""

    def __init__(self, within_s: float, answers: Callable[[], int]) -> None:
        self._within_s = within_s
        self._answers = answers
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task(self._loop)
        assert task is not None, "only a task can be made to wait no longer"
        self._task = task
        self._cancelling = task.cancelling()
        self._expired = False
        self._rounds = 0
        self._begin()

    def end(self) -> bool:
        """Look no more. Returns whether it was the watch, and nobody else, that has cancelled the task."""
        self._timer.cancel()
        return self._expired and self._task.uncancel() <= self._cancelling

    def _begin(self) -> None:
        self._began, self._seen = self._loop.time(), self._answers()
        self._timer: asyncio.Handle = self._loop.call_later(self._within_s, self._look)

    def _look(self) -> None:
        self._rounds += 1
        late = self._loop.time() - self._began >= self._within_s + LAG_S
        if late and self._rounds < ROUNDS:
            self._begin()
        else:
            self._look_again(_TICKS)

    def _look_again(self, ticks: int) -> None:
        if self._answers() != self._seen and self._rounds < ROUNDS:
            self._begin()
        elif ticks:
            self._timer = self._loop.call_soon(self._look_again, ticks - 1)
        else:
            self._expired = True
            self._task.cancel()
