"""Calls share batches: how many, in which order, and what happens to them when something goes wrong."""

import asyncio
from collections.abc import Sequence

import pytest

from ratelimit_service.batcher import Batcher

pytestmark = pytest.mark.asyncio


class Line:
    """Doubles numbers, one batch at each `release`; 0 is refused, and a negative number breaks the line."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.released = asyncio.Semaphore(0)

    async def send(self, batch: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(list(batch))
        await self.released.acquire()
        if min(batch) < 0:
            raise ConnectionError("broken")
        return [number * 2 or ValueError("zero") for number in batch]

    async def release(self, batches: int = 1) -> None:
        for _ in range(batches):
            self.released.release()
        for _ in range(5):
            await asyncio.sleep(0)


async def tick() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_calls_of_one_tick_are_one_batch() -> None:
    line = Line()
    batcher = Batcher(line.send, in_flight=4)
    answers = [batcher.call(number) for number in (1, 2, 3)]
    await tick()
    await line.release()
    assert await asyncio.gather(*answers) == [2, 4, 6]
    assert line.batches == [[1, 2, 3]]


async def test_calls_of_later_ticks_do_not_wait_for_the_first() -> None:
    line = Line()
    batcher = Batcher(line.send, in_flight=2)
    first = batcher.call(1)
    await tick()
    second = batcher.call(2)
    await tick()
    assert line.batches == [[1], [2]]
    await line.release(2)
    assert [await first, await second] == [2, 4]


async def test_calls_gather_while_all_round_trips_are_taken() -> None:
    line = Line()
    batcher = Batcher(line.send, in_flight=1)
    answers = []
    for number in (1, 2, 3):
        answers.append(batcher.call(number))
        await tick()
    assert line.batches == [[1]]
    await line.release()
    assert line.batches == [[1], [2, 3]]
    await line.release()
    assert await asyncio.gather(*answers) == [2, 4, 6]


async def test_each_call_gets_its_own_failure() -> None:
    line = Line()
    batcher = Batcher(line.send, in_flight=1)
    answers = [batcher.call(number) for number in (1, 0, 3)]
    await tick()
    await line.release()
    first, second, third = await asyncio.gather(*answers, return_exceptions=True)
    assert (first, str(second), third) == (2, "zero", 6)


async def test_broken_round_trip_fails_its_calls_and_no_others() -> None:
    line = Line()
    batcher = Batcher(line.send, in_flight=1)
    broken = [batcher.call(-1), batcher.call(1)]
    await tick()
    fine = batcher.call(2)
    await line.release(2)
    for answer in broken:
        with pytest.raises(ConnectionError, match="broken"):
            await answer
    assert await fine == 4


async def test_call_that_is_given_up_leaves_its_batch_alone() -> None:
    line = Line()
    batcher = Batcher(line.send, in_flight=1)
    given_up, kept = batcher.call(1), batcher.call(2)
    await tick()
    given_up.cancel()
    await line.release()
    assert await kept == 4


async def test_a_question_whose_caller_gave_up_is_not_sent() -> None:
    line = Line()
    batcher = Batcher(line.send, in_flight=1)
    first = batcher.call(1)
    await tick()
    given_up, waiting = batcher.call(2), batcher.call(3)
    given_up.cancel()
    await line.release(2)
    assert [await first, await waiting] == [2, 6]
    assert line.batches == [[1], [3]]
