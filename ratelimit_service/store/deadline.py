"""How long to wait for a store: one that is late is waited for, one that is silent is given up."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

LOOKS = 5
"""A time-out is so many looks in a row that saw no answer."""
MOST_TIMEOUTS = 8
"""Nobody waits longer than so many time-outs, though others are answered meanwhile."""
_TURNS = 4
"""Of the event loop, from an answer's arrival in the socket until somebody has read it."""

T = TypeVar("T")


class Deadline:
    """Waits for the answers of one store, all under one watch.

    A time-out is `timeout_s` in which answers were due and none came, to anybody. Only time counts in which this
    process could have seen one: what has arrived is read before it is judged, and a look that is late because the
    event loop was busy, or the process had no CPU, counts as one look. `on_timeout` is told of each, and how many there
    have been in a row; `MOST_TIMEOUTS` also when somebody has waited for so many while others were answered.

    `answers` counts what the store has said to anyone; without it, only the answers that were waited for here count.
    """

    def __init__(
        self, timeout_s: float, on_timeout: Callable[[int], None], answers: Callable[[], int] | None = None
    ) -> None:
        self._step_s = timeout_s / LOOKS
        self._on_timeout = on_timeout
        self._waited_for = 0
        self._answers = answers or (lambda: self._waited_for)
        self._seen = 0
        self._silent = 0  # looks
        self._looks = 0
        self._waiting: dict[asyncio.Future[None], int] = {}  # and at which look they came, oldest first
        self._timer: asyncio.TimerHandle | None = None

    async def wait_for(self, answer: "asyncio.Future[T]") -> T:
        """The answer. Raises `TimeoutError` after `give_up`, and what `answer` raises. Whoever waits no longer leaves
        `answer` under way: what becomes of it is the caller's business."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        wake = partial(_wake, waiter)
        answer.add_done_callback(wake)
        self._waiting[waiter] = self._looks
        if self._timer is None:
            self._begin(loop)
        try:
            await waiter
        finally:
            self._waiting.pop(waiter, None)
            if not answer.done():
                answer.remove_done_callback(wake)
        self._waited_for += 1
        return answer.result()

    def give_up(self) -> None:
        """Everybody who waits gets a `TimeoutError`."""
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting:
            if not waiter.done():
                waiter.set_exception(TimeoutError())

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._seen, self._silent = self._answers(), 0
        self._timer = loop.call_later(self._step_s, self._look, loop, _TURNS)

    def _look(self, loop: asyncio.AbstractEventLoop, turns: int) -> None:
        if turns:
            loop.call_soon(self._look, loop, turns - 1)
            return
        self._timer = None
        self._looks += 1
        self._judge()
        if self._waiting:
            self._timer = loop.call_later(self._step_s, self._look, loop, _TURNS)

    def _judge(self) -> None:
        answers = self._answers()
        self._silent = self._silent + 1 if answers == self._seen else 0
        self._seen = answers
        if not self._waiting:
            return
        if self._silent and self._silent % LOOKS == 0:
            self._on_timeout(self._silent // LOOKS)
        elif self._looks - next(iter(self._waiting.values())) >= MOST_TIMEOUTS * LOOKS:
            self._on_timeout(MOST_TIMEOUTS)


def _wake(waiter: "asyncio.Future[None]", _answer: "asyncio.Future[Any]") -> None:
    if not waiter.done():
        waiter.set_result(None)
