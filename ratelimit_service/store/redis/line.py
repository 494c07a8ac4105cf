"""Takes over a connection made by redis-py, to write commands and read replies as they come, without a task in between.

Sent one by one through redis-py, commands cost more in tasks and wake-ups than in talking to Redis.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from hiredis import Reader, pack_command
from redis import exceptions
from redis.asyncio.connection import AbstractConnection, DefaultParser

Reply = Any

_CANT_DECIDE = (exceptions.ReadOnlyError, exceptions.ConnectionError)
"""This server can't decide now: it is a replica, or loading. Another one may: for the next connection a sentinel, if
there is one, is asked again."""


class Line(asyncio.Protocol):
    """`replied` is called with each reply (RESP2) in turn; an error reported by Redis is an exception of redis-py.

    `lost` is set, once, to what ended the line. `connection` must be connected, with no reply due; its owner still has
    to close it.
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
        """Send all of them in one write. There is no flow control: the caller bounds what is in flight."""
        self._transport.write(b"".join([pack_command(words) for words in commands]))

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:  # False: the next one is incomplete
                self._replied(reply)
                if isinstance(reply, _CANT_DECIDE):
                    self._end(reply)
        except Exception as error:  # not a Redis, or a reply without a command
            self._end(error)

    def eof_received(self) -> None:
        self._end(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error)

    def _end(self, error: Exception | None) -> None:
        if not self._lost.done():
            self._lost.set_result(exceptions.ConnectionError(str(error or "the connection was closed")))
