"""One connection to one Redis server, on which commands follow each other without waiting for replies (pipelining).

Redis answers in the order it was asked, so the oldest command that was sent gets the next reply. Connecting, TLS,
authentication and the finding of a sentinel's master are redis-py's business, as is the protocol.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from redis import exceptions
from redis.asyncio.connection import AbstractConnection

IN_FLIGHT = 24
"""Commands sent and not yet answered. Redis answers once it has done all that it has read, so what is sent at once is
also answered at once: with many, the first answer is late. What waits behind them can still be taken back."""

_MOST_UNUSED = 2
"""Connections in a row that were closed before anything was sent."""

Reply = Any
_Waiting = tuple[Sequence[Any], "asyncio.Future[Reply]"]


class Pipe:
    """Connects at the first call, and again when it has lost the connection and there are calls to make.

    A failure is an exception of redis-py. It fails the calls that were sent: whether Redis took them is unknown; where
    no connection can be had, it fails all. That no reply comes for `patience_s` while some are due is a failure too.
    """

    def __init__(self, make: Callable[[], AbstractConnection], patience_s: float) -> None:
        self.answers = 0  # replies that have come, to whomever
        self._make = make
        self._patience_s = patience_s
        self._unsent: deque[_Waiting] = deque()
        self._sent: deque[asyncio.Future[Reply]] = deque()
        self._wake = asyncio.Event()
        self._answered_at = -math.inf
        self._used = False
        self._task: asyncio.Task[None] | None = None

    def call(self, *words: Any) -> "asyncio.Future[Reply]":
        """The reply to come: what Redis says, or an exception of redis-py. A call that is cancelled is not sent."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._unsent.append((words, future))
        self._wake.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return future

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        """As long as there are calls to make, one connection after the other."""
        unused = 0
        try:
            while unused < _MOST_UNUSED:
                connection = self._make()
                try:
                    await self._connect(connection)
                    await self._use(connection)
                finally:
                    await connection.disconnect(nowait=True)
                if not self._unsent:
                    return
                unused = 0 if self._used else unused + 1
            self._fail(exceptions.ConnectionError("Redis closes every connection"), self._unsent_futures())
        except Exception as error:
            self._fail(error, self._unsent_futures())
        finally:
            self._task = None
            closed = exceptions.ConnectionError("the connection was closed")
            self._fail(closed, [*self._sent, *self._unsent_futures()])

    async def _connect(self, connection: AbstractConnection) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                await connection.connect()  # type: ignore[no-untyped-call] # as redis-py has it
        except TimeoutError:
            raise exceptions.TimeoutError("Redis did not answer in time") from None

    async def _use(self, connection: AbstractConnection) -> None:
        """Until it fails; then what was sent has failed."""
        self._used = False
        self._wake.set()
        reading = asyncio.create_task(self._read(connection))
        watching = asyncio.create_task(self._watch())
        writing = asyncio.create_task(self._write(connection))
        tasks = {reading, watching, writing}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            failures = [task.exception() for task in done]
            self._fail(failures[0] or exceptions.ConnectionError("the connection was closed"), self._sent)
            self._sent.clear()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, connection: AbstractConnection) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self._sent:
                await self._look(connection)
            packed: list[bytes] = []
            while self._unsent and len(self._sent) < IN_FLIGHT:
                words, future = self._unsent.popleft()
                if not future.done():
                    packed += connection.pack_command(*words)
                    self._sent.append(future)
            if packed:
                self._used = True
                await connection.send_packed_command(packed, check_health=False)

    @staticmethod
    async def _look(connection: AbstractConnection) -> None:
        """A connection on which nothing is due may have been closed meanwhile: then nothing is to be lost on it."""
        await asyncio.sleep(0)  # the event loop takes note of what has come
        if await connection.can_read():
            raise exceptions.ConnectionError("the connection was closed")

    async def _read(self, connection: AbstractConnection) -> None:
        loop = asyncio.get_running_loop()
        while True:
            reply: Reply
            try:
                reply = await connection.read_response(timeout=math.inf, disconnect_on_error=False)
            except exceptions.ConnectionError:
                raise
            except exceptions.ResponseError as error:
                reply = error
            self._answered_at = loop.time()
            self.answers += 1
            future = self._sent.popleft()
            if len(self._sent) < IN_FLIGHT and self._unsent:
                self._wake.set()  # there is room for what waits
            if future.done():
                continue
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)

    async def _watch(self) -> None:
        """Raises `exceptions.TimeoutError` when replies are due and none comes."""
        loop = asyncio.get_running_loop()
        while True:
            due, began = len(self._sent), loop.time()
            await asyncio.sleep(self._patience_s)
            if due and self._answered_at < began:
                raise exceptions.TimeoutError("Redis did not answer in time")

    def _unsent_futures(self) -> "list[asyncio.Future[Reply]]":
        futures = [future for _, future in self._unsent]
        self._unsent.clear()
        return futures

    @staticmethod
    def _fail(failure: BaseException, waiting: "Iterable[asyncio.Future[Reply]]") -> None:
        for future in waiting:
            if not future.done():
                future.set_exception(failure)
