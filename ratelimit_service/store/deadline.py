"""Decides how long to wait for a store: while it is late, but not while it is silent."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

LOOKS = 5
"""A time-out is this many checks in a row without an answer."""
MOST_TIMEOUTS = 8
"""The longest wait, in time-outs, even while other calls are answered."""
_TURNS = 4
"""Turns of the event loop from an answer's arrival in the socket until it has been read."""

T = TypeVar("T")


class Deadline:
    """Waits for the answers of one store, all with one timer.

    A time-out is `timeout_s` in which answers were due and none came, to any call. Only time counts in which this
    process could have seen one: what has arrived is read before each check, and a check that is late because the event
    loop was busy, or the process had no CPU, counts once. `on_timeout` is called at each, with their number in a row;
    also with `MOST_TIMEOUTS` when a call has waited for that many while others were answered.

    `answers` counts all answers of the store; without it, only those that were waited for here count.
    """

    def __init__(
        self, timeout_s: float, on_timeout: Callable[[int], None], answers: Callable[[], int] | None = None
    ) -> None:
        self._step_s = timeout_s / LOOKS
        self._on_timeout = on_timeout
        self._waited_for = 0
        self._answers = answers or (lambda: self._waited_for)
        self._seen = 0
        self._silent = 0  # checks in a row without an answer
        self._looks = 0
        self._waiting: dict[asyncio.Future[None], int] = {}  # with the number of checks before each, oldest first
        self._timer: asyncio.TimerHandle | None = None

    async def wait_for(self, answer: "asyncio.Future[T]") -> T:
        """The answer. Raises `TimeoutError` after `give_up`, and what `answer` raises. `answer` is not cancelled when
        the wait ends: the caller has to deal with it."""
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
        """Raise `TimeoutError` in all waiting calls."""
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
