"""Calls that are made in the same tick of the event loop travel together."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Q = TypeVar("Q")
R = TypeVar("R")


class Batcher(Generic[Q, R]):
    """Collects single calls and gives them to `send` as one batch; at most `in_flight` batches run at the same time.

    Calls that come while all of them run wait for the first to end, so batches grow with the load. `send` answers in
    the order of the calls, each with a result or with the exception that its caller gets. A caller that is cancelled
    leaves the others of its batch alone; if that is before the batch is sent, its question is not sent.
    """

    def __init__(self, send: Callable[[Sequence[Q]], Awaitable[Sequence[R | Exception]]], in_flight: int) -> None:
        self._send = send
        self._free = in_flight
        self._waiting: list[tuple[Q, asyncio.Future[R]]] = []
        self._running: set[asyncio.Task[None]] = set()

    def call(self, question: Q) -> asyncio.Future[R]:
        """The answer to come. The question is in the next batch at once: no task of its own is needed to share it."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        self._waiting.append((question, answer))
        if len(self._waiting) == 1:
            loop.call_soon(self._start)
        return answer

    def _start(self) -> None:
        if not self._waiting or not self._free:
            return
        batch = [(question, answer) for question, answer in self._waiting if not answer.done()]
        self._waiting = []
        if not batch:
            return
        self._free -= 1
        task = asyncio.create_task(self._run(batch))
        self._running.add(task)  # the event loop itself keeps only a weak reference
        task.add_done_callback(self._running.discard)

    async def _run(self, batch: list[tuple[Q, asyncio.Future[R]]]) -> None:
        answers: Sequence[R | Exception]
        try:
            answers = await self._send([question for question, _ in batch])
        except Exception as error:
            answers = [error] * len(batch)
        finally:
            self._free += 1
            self._start()
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
