"""A connection that redis-py has made, taken over: commands out and replies in, as they come, without a task between.

What is asked one by one through redis-py costs more in tasks and wake-ups than in talking to Redis.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from hiredis import Reader, pack_command
from redis import exceptions
from redis.asyncio.connection import AbstractConnection, DefaultParser

Reply = Any

_ELSEWHERE = (exceptions.ReadOnlyError, exceptions.ConnectionError)
"""This server does not decide now: it is a replica, or loading. Who does may be another, and a sentinel, asked when the
next connection is made, knows by then."""


class Line(asyncio.Protocol):
    """`replied` is called with each reply (RESP2) in turn, an error that Redis reports being an exception of redis-py.

    `lost` is set, once, to what ended the line. `connection` is connected and nothing is due on it; closing it is still
    its owner's business.
    """

    def __init__(
        self, connection: AbstractConnection, replied: Callable[[Reply], None], lost: "asyncio.Future[Exception]"
    ) -> None:
        self._replied = replied
        self._lost = lost
        self._reader = Reader(protocolError=exceptions.InvalidResponse, replyError=DefaultParser.parse_error)
        assert connection._writer is not None
        self._transport = connection._writer.transport
        self._transport.set_protocol(self)

    @property
    def over(self) -> bool:
        return self._lost.done()

    def send(self, commands: Iterable[tuple[Any, ...]]) -> None:
        """All of them in one write. Nothing holds it back: whoever sends bounds what is under way."""
        self._transport.write(b"".join([pack_command(words) for words in commands]))

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:  # False: the next one is not whole yet
                self._replied(reply)
                if isinstance(reply, _ELSEWHERE):
                    self._end(reply)
        except Exception as error:  # this is no Redis, or it answers what nobody has asked
            self._end(error)

    def eof_received(self) -> None:
        self._end(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error)

    def _end(self, error: Exception | None) -> None:
        if not self._lost.done():
            self._lost.set_result(exceptions.ConnectionError(str(error or "the connection was closed")))
