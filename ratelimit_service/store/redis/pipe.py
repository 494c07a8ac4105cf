"""One connection to one Redis server, on which commands follow each other without waiting for replies (pipelining).

Redis answers in the order it was asked, so the oldest command that was sent gets the next reply. Connecting, TLS,
authentication and finding a sentinel's master are left to redis-py.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from redis import exceptions
from redis.asyncio.connection import AbstractConnection

from ratelimit_service.store.redis.line import Line, Reply

IN_FLIGHT = 24
"""Commands sent and not yet answered. Redis answers after it has executed all that it has read, so commands sent
together are answered together: with many, the first answer is late. Commands that wait here can still be cancelled."""
_MOST_IN_FLIGHT = 1024
_WIDEN_S = 0.01
"""If the network is slow, or Redis has not read anything yet, holding commands back gains nothing: after this long
without an answer, twice as many may be in flight."""

_MOST_UNUSED = 2
"""After this many connections in a row that were closed before anything was sent, all calls fail."""

_Waiting = tuple[tuple[Any, ...], "asyncio.Future[Reply]"]


class Pipe:
    """Connects at the first call, and again when it has lost the connection and there are calls to make.

    A failure is an exception of redis-py. It fails the calls that were sent: whether Redis executed them is unknown. If
    no connection can be made, it fails all calls. No reply for `patience_s` while some are due is a failure, too.
    """

    def __init__(self, make: Callable[[], AbstractConnection], patience_s: float) -> None:
        self.answers = 0  # replies received
        self._make = make
        self._patience_s = patience_s
        self._unsent: deque[_Waiting] = deque()
        self._sent: deque[asyncio.Future[Reply]] = deque()
        self._line: Line | None = None
        self._flushing = False
        self._room = IN_FLIGHT
        self._widening: asyncio.TimerHandle | None = None
        self._used = False
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def call(self, *words: Any) -> "asyncio.Future[Reply]":
        """The future reply of Redis, or an exception of redis-py. A call cancelled while it waits is not sent."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._unsent.append((words, future))
        if self._task is None:
            self._task = self._loop.create_task(self._run())
        else:
            self._flush_soon()
        return future

    async def close(self) -> None:
        if self._widening is not None:
            self._widening.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        """Use one connection after the other, as long as there are calls to make."""
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
                await connection.connect()  # type: ignore[no-untyped-call] # untyped in redis-py
        except TimeoutError:
            raise exceptions.TimeoutError("Redis did not answer in time") from None

    async def _use(self, connection: AbstractConnection) -> None:
        """Use the connection until it fails, then fail what was sent."""
        self._used = False
        lost: asyncio.Future[Exception] = self._loop.create_future()
        self._line = Line(connection, self._replied, lost)
        self._flush()
        try:
            self._fail(await self._failure(lost), self._sent)
            self._sent.clear()
        finally:
            self._line = None

    async def _failure(self, lost: "asyncio.Future[Exception]") -> Exception:
        """Why the connection ended, or that replies are due and none come."""
        while not lost.done():
            due, answers = len(self._sent), self.answers
            await asyncio.wait({lost}, timeout=self._patience_s)
            if due and self.answers == answers and not lost.done():
                return exceptions.TimeoutError("Redis did not answer in time")
        return lost.result()

    def _flush_soon(self) -> None:
        """Send together with other calls of this tick. A connection on which nothing is due may have been closed
        meanwhile, and what is sent on it would be lost: so the event loop gets time to notice."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush if self._sent else partial(self._loop.call_soon, self._flush))

    def _flush(self) -> None:
        self._flushing = False
        if self._line is None or self._line.over:
            return  # sent once there is a connection
        commands = []
        while self._unsent and len(self._sent) < self._room:
            words, future = self._unsent.popleft()
            if not future.done():
                commands.append(words)
                self._sent.append(future)
        if commands:
            self._used = True
            self._line.send(commands)
        if self._unsent and self._widening is None:
            self._widening = self._loop.call_later(_WIDEN_S, self._widen, self.answers)

    def _widen(self, answers: int) -> None:
        self._widening = None
        if self.answers == answers:
            self._room = min(2 * self._room, _MOST_IN_FLIGHT)
        if self._unsent:
            self._flush()

    def _replied(self, reply: Reply) -> None:
        future = self._sent.popleft()
        self.answers += 1
        if len(self._sent) < IN_FLIGHT:
            self._room = IN_FLIGHT
        if self._unsent:
            self._flush_soon()  # there is room for waiting calls
        if future.done():
            return
        if isinstance(reply, Exception):
            future.set_exception(reply)
        else:
            future.set_result(reply)

    def _unsent_futures(self) -> "list[asyncio.Future[Reply]]":
        futures = [future for _, future in self._unsent]
        self._unsent.clear()
        return futures

    @staticmethod
    def _fail(failure: BaseException, waiting: "Iterable[asyncio.Future[Reply]]") -> None:
        for future in waiting:
            if not future.done():
                future.set_exception(failure)
