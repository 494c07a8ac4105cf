"""A slow store is given up; a busy process is not taken for one."""

import asyncio
import time

import pytest

from ratelimit_service.patience import Patience

pytestmark = pytest.mark.asyncio

FOREVER_S = 30


async def test_an_answer_in_time_is_given() -> None:
    assert await Patience().wait_for(asyncio.sleep(0.001, "found"), 5) == "found"


async def test_no_answer_is_given_up() -> None:
    with pytest.raises(TimeoutError):
        await Patience().wait_for(asyncio.sleep(FOREVER_S), 0.01)


async def test_what_the_answer_raises_is_raised() -> None:
    async def fails() -> None:
        raise ValueError("theirs")

    with pytest.raises(ValueError, match="theirs"):
        await Patience().wait_for(fails(), 5)


async def test_a_busy_event_loop_is_no_slow_store() -> None:
    """The answer is there long before anyone has the time to look."""
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def hog(turns: int) -> None:
        time.sleep(0.03)
        if turns:
            asyncio.get_running_loop().call_soon(hog, turns - 1)
        else:
            answer.set_result("found")

    asyncio.get_running_loop().call_soon(hog, 5)
    assert await Patience().wait_for(answer, 0.01) == "found"


async def test_the_time_begins_anew_while_others_are_answered() -> None:
    patience = Patience()

    async def others() -> None:
        for _ in range(40):
            await patience.wait_for(asyncio.sleep(0.002), 5)

    busy = asyncio.create_task(others())
    assert await patience.wait_for(asyncio.sleep(0.05, "found"), 0.02) == "found"
    await busy


async def test_a_caller_that_leaves_leaves() -> None:
    waiting = asyncio.create_task(Patience().wait_for(asyncio.sleep(FOREVER_S), FOREVER_S))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_an_answer_that_somebody_else_got_is_a_sign_of_life() -> None:
    answers = 0

    async def store() -> None:
        nonlocal answers
        for _ in range(10):
            await asyncio.sleep(0.005)
            answers += 1

    living = asyncio.create_task(store())
    assert await Patience(lambda: answers).wait_for(asyncio.sleep(0.045, "found"), 0.02) == "found"
    await living


async def test_what_has_come_but_was_not_read_yet_is_waited_for() -> None:
    """When the time is up, the loop still gets the chance to read what is in the socket."""
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()
    loop.call_later(0.0101, lambda: loop.call_soon(loop.call_soon, answer.set_result, "found"))
    began = loop.time()
    patience = Patience(lambda: int(loop.time() - began > 0.0101))
    assert await patience.wait_for(answer, 0.01) == "found"
