"""A silent store is given up, a late one is waited for, and a busy process is taken for neither."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ratelimit_service.store.deadline import MOST_TIMEOUTS, Deadline

pytestmark = pytest.mark.asyncio

FOREVER_S = 30
TIMEOUT_S = 0.02


class Caller:
    """Gives up after so many time-outs in a row."""

    def __init__(self, after: int = 3, answers: Callable[[], int] | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self.timeouts: list[int] = []
        self._after = after
        self.deadline = Deadline(timeout_s, self._timed_out, answers)

    def _timed_out(self, in_a_row: int) -> None:
        self.timeouts.append(in_a_row)
        if in_a_row >= self._after:
            self.deadline.give_up()

    async def wait_for(self, answer: Awaitable[Any]) -> Any:
        return await self.deadline.wait_for(asyncio.ensure_future(answer))


async def test_an_answer_in_time_is_given() -> None:
    assert await Caller().wait_for(asyncio.sleep(0.001, "found")) == "found"


async def test_silence_is_given_up_after_three_timeouts_in_a_row() -> None:
    caller = Caller()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await caller.wait_for(asyncio.sleep(FOREVER_S))
    assert caller.timeouts == [1, 2, 3]
    assert time.monotonic() - began >= 3 * TIMEOUT_S * 0.9


async def test_what_the_answer_raises_is_raised() -> None:
    async def fails() -> str:
        raise ValueError("theirs")

    with pytest.raises(ValueError, match="theirs"):
        await Caller().wait_for(fails())


async def test_a_late_answer_is_waited_for() -> None:
    caller = Caller()
    assert await caller.wait_for(asyncio.sleep(2.2 * TIMEOUT_S, "found")) == "found"


async def test_lateness_does_not_add_up_while_answers_come() -> None:
    caller = Caller()
    for _ in range(5):
        assert await caller.wait_for(asyncio.sleep(1.5 * TIMEOUT_S, "found")) == "found"
    assert set(caller.timeouts) <= {1, 2}


async def test_a_busy_event_loop_is_no_silent_store() -> None:
    """The answer is there long before anyone has the time to look."""
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def hog(turns: int) -> None:
        time.sleep(3 * TIMEOUT_S)
        if turns:
            asyncio.get_running_loop().call_soon(hog, turns - 1)
        else:
            answer.set_result("found")

    asyncio.get_running_loop().call_soon(hog, 5)
    caller = Caller()
    assert await caller.wait_for(answer) == "found"
    assert caller.timeouts in ([], [1], [1, 2])


async def test_a_process_that_had_no_cpu_counts_one_look() -> None:
    caller = Caller(after=1)
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(9.3 * TIMEOUT_S, answer.set_result, "found")
    waiting = asyncio.create_task(caller.wait_for(answer))
    await asyncio.sleep(0)
    time.sleep(9 * TIMEOUT_S)  # noqa: ASYNC251 - the event loop is to stand still
    assert await waiting == "found"


async def test_an_answer_that_somebody_else_got_is_a_sign_of_life() -> None:
    answers = 0

    async def store() -> None:
        nonlocal answers
        for _ in range(20):
            await asyncio.sleep(TIMEOUT_S / 4)
            answers += 1

    living = asyncio.create_task(store())
    caller = Caller(after=1, answers=lambda: answers)
    assert await caller.wait_for(asyncio.sleep(4 * TIMEOUT_S, "found")) == "found"
    await living


async def test_nobody_waits_for_ever_while_others_are_answered() -> None:
    answers = iter(range(10**9))
    caller = Caller(answers=lambda: next(answers), timeout_s=0.005)
    with pytest.raises(TimeoutError):
        await caller.wait_for(asyncio.sleep(FOREVER_S))
    assert caller.timeouts == [MOST_TIMEOUTS]


async def test_what_has_come_but_was_not_read_yet_is_waited_for() -> None:
    """When the time is up, the loop still gets the chance to read what is in the socket."""
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()
    came = loop.time() + TIMEOUT_S
    loop.call_at(came, lambda: loop.call_soon(loop.call_soon, answer.set_result, "found"))
    caller = Caller(after=1, answers=lambda: int(loop.time() >= came))
    assert await caller.wait_for(answer) == "found"


async def test_a_caller_that_leaves_leaves_the_answer_under_way() -> None:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(Caller().deadline.wait_for(answer))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not answer.cancelled()


async def test_the_watch_rests_while_nobody_waits() -> None:
    caller = Caller()
    await caller.wait_for(asyncio.sleep(0.001, "found"))
    await asyncio.sleep(4 * TIMEOUT_S)
    assert caller.timeouts == []
