"""The listener: a unix socket on which connections are accepted, answered and, in the end, drained."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from gatehouse.rpc.http2.calls import Calls
from gatehouse.rpc.http2.connection import Connection
from gatehouse.rpc.service import Method
from gatehouse.rpc.unix_socket import bound

_BACKLOG = 1024


class _Peer(asyncio.Protocol):
    """One connection's I/O. Reading pauses while the peer does not read its responses."""

    def __init__(self, methods: Mapping[str, Method], peers: "set[_Peer]") -> None:
        self._methods = methods
        self._peers = peers
        self._transport: asyncio.Transport
        self.connection: Connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # as uvloop does not declare it
        self.connection = Calls(self._methods, self._transport.write).connection
        self._peers.add(self)

    def data_received(self, data: bytes) -> None:
        self.connection.feed(data)
        self.close_if_over()

    def connection_lost(self, _error: Exception | None) -> None:
        self._peers.discard(self)
        self.connection.lost()

    def pause_writing(self) -> None:
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()

    def close_if_over(self) -> None:
        if self.connection.over:
            self._transport.close()

    def abort(self) -> None:
        """Close it now, even if calls are running."""
        self.connection.lost()
        self._transport.abort()


class Listener:
    """Serves on a unix socket. Call `bind`, then `close`, once each."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = methods
        self._peers: set[_Peer] = set()
        self._server: asyncio.Server

    async def bind(self, path: Path) -> None:
        """Accept connections on `path`, from its owner and group. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: _Peer(self._methods, self._peers), sock=bound(path), backlog=_BACKLOG
        )

    async def close(self, grace_s: float) -> None:
        """Accept no new connections, and let the calls of open ones finish for up to `grace_s` seconds."""
        self._server.close()
        for peer in tuple(self._peers):
            peer.connection.drain()
        deadline = asyncio.get_running_loop().time() + grace_s
        while self._peers and asyncio.get_running_loop().time() < deadline:
            for peer in tuple(self._peers):
                peer.close_if_over()
            await asyncio.sleep(0.01)
        for peer in tuple(self._peers):
            peer.abort()
