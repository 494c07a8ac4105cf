"""Unary gRPC calls to a server on a unix socket, one after the other, between processes of the gateway.

The client side of `calls` (gRPC over HTTP/2, PROTOCOL-HTTP2.md; RFC 9113), in the caller's event loop: grpcio has its
own threads, and switching to them costs more than a call. If a server breaks the protocol, it gets GOAWAY and the
connection is closed: frames are validated as in `connection`, but not the order of a response's frames.
"""

import asyncio
from pathlib import Path
from typing import cast

from gatehouse.contract.failures import GatehouseError
from gatehouse.rpc.http2 import frames, messages
from gatehouse.rpc.http2.frames import ErrorCode, FrameReader, ProtocolError
from gatehouse.rpc.http2.headers import Headers, RequestHeaders, UnreadableHeadersError, literal
from gatehouse.rpc.service import Code

_ROOM = frames.DEFAULT_WINDOW // 2
_GREETING = frames.PREFACE + frames.settings({frames.HEADER_TABLE_SIZE: 0, frames.ENABLE_PUSH: 0})


class CallFailedError(GatehouseError):
    """There was no response; the server may or may not have acted. The text has the status or the cause."""


class Client:
    """Calls the server on `socket`. Connects at the first call, and reconnects when the connection has ended."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._connection: _Connection | None = None

    async def call(self, path: str, request: bytes, timeout_s: float) -> bytes:
        """The serialized answer of the method at `path`, `/package.Service/Method`. Calls must not overlap.

        Raises `CallFailedError`, after `timeout_s` at the latest.
        """
        try:
            async with asyncio.timeout(timeout_s):
                if self._connection is None or self._connection.over:
                    self.close()
                    self._connection = await self._connected()
                return await self._connection.ask(_headers(path), messages.framed(request))
        except TimeoutError:
            self.close()  # a late response is dropped
            raise CallFailedError(f"no answer in {timeout_s} s") from None
        except asyncio.CancelledError:
            self.close()
            raise
        except OSError as error:
            raise CallFailedError(str(error)) from None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _connected(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        return (await loop.create_unix_connection(lambda: _Connection(loop), str(self._socket)))[1]


class _Connection(asyncio.Protocol):
    """One call at a time. `over`: it takes no more."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.over = False
        self._loop = loop
        self._transport: asyncio.Transport
        self._headers = RequestHeaders()
        self._frames = FrameReader(self._frame)
        self._stream = -1
        self._answer: asyncio.Future[bytes] = loop.create_future()
        self._body = bytearray()
        self._unsent = memoryview(b"")
        self._window = self._stream_window = self._first_window = frames.DEFAULT_WINDOW
        self._received = 0  # bytes received and not yet returned to the server's window

    def ask(self, headers: bytes, message: bytes) -> "asyncio.Future[bytes]":
        self._stream += 2
        self._answer, self._body = self._loop.create_future(), bytearray()
        self._stream_window, self._unsent = self._first_window, memoryview(message)
        block = headers if self._stream > 1 else _NO_TABLE + headers
        self._write(frames.HEADERS, frames.END_HEADERS, self._stream, block)
        self._send_on()
        return self._answer

    def close(self) -> None:
        self.over = True
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(_GREETING)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"the connection was lost: {error or 'the server closed it'}")
        self.over = True

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        try:
            self._frames.feed(data)
        except ProtocolError as error:
            self._transport.write(frames.goaway(0, error.code, str(error)))
            self.close()
            self._fail(f"the server broke the protocol: {error}")

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """What is of no use to us (PRIORITY, unknown kinds) is ignored, and so are calls that were given up."""
        mine = stream == self._stream
        if kind == frames.SETTINGS:
            self._settings(flags, stream, payload)
        elif kind == frames.PING:
            if not flags & frames.ACK:
                self._transport.write(frames.ping(frames.read_ping(stream, payload), ack=True))
        elif kind == frames.WINDOW_UPDATE:
            self._room(frames.read_increment(payload), stream)
        elif kind == frames.GOAWAY:
            self.over = True  # the running call still gets its response (section 6.8)
        elif kind in (frames.HEADERS, frames.DATA) and not 0 < stream <= self._stream:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "an answer on an idle stream")
        elif kind == frames.HEADERS:
            self._said(payload, mine and bool(flags & frames.END_STREAM))
        elif kind == frames.DATA:
            self._data(payload, frames.unpadded(flags, payload) if mine else b"")
        elif kind == frames.RST_STREAM and mine:
            self._fail("the server has reset the call")
        elif kind == frames.PUSH_PROMISE:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a push that was not allowed")

    def _settings(self, flags: int, stream: int, payload: bytes) -> None:
        for name, value in frames.read_settings(flags, stream, payload):
            if name == frames.INITIAL_WINDOW_SIZE:
                self._stream_window += value - self._first_window
                self._first_window = value
        if not flags & frames.ACK:
            self._transport.write(frames.SETTINGS_ACK)
            self._send_on()

    def _room(self, credit: int, stream: int) -> None:
        if stream == 0:
            self._window += credit
        elif stream == self._stream:
            self._stream_window += credit
        if max(self._window, self._stream_window) > frames.MAX_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
        self._send_on()

    def _said(self, block: bytes, ended: bool) -> None:
        """Every block is decoded: HPACK has state. The last one has the status."""
        try:
            headers = self._headers.read(block)
        except UnreadableHeadersError as error:
            raise ProtocolError(ErrorCode.COMPRESSION_ERROR, f"headers that can't be read: {error}") from None
        if ended and not self._answer.done():
            self._ended(headers)

    def _ended(self, headers: Headers) -> None:
        self._unsent = memoryview(b"")  # who has answered reads no more
        said = dict(headers)
        status = said.get("grpc-status", "")
        if status != str(Code.OK.value):
            name = Code(int(status)).name if status in _CODES else f"status {status or 'unknown'}"
            self._fail(f"{name}: {said.get('grpc-message', '')}")
        elif messages.is_compressed(self._body) or not messages.is_one(self._body):
            self._fail("the answer is no message")
        else:
            self._answer.set_result(bytes(self._body[messages.PREFIX :]))

    def _data(self, payload: bytes, body: bytes) -> None:
        """Padding takes room, too."""
        self._body += body
        self._received += len(payload)
        if self._received >= _ROOM:
            room = frames.window_update(0, self._received) + frames.window_update(self._stream, self._received)
            self._transport.write(room)
            self._received = 0

    def _send_on(self) -> None:
        """Send as much of the request as the windows allow."""
        while self._unsent and (size := self._allowed()) > 0:
            flags = frames.END_STREAM if size == len(self._unsent) else 0
            self._write(frames.DATA, flags, self._stream, self._unsent[:size])
            self._window -= size
            self._stream_window -= size
            self._unsent = self._unsent[size:]

    def _allowed(self) -> int:
        return min(len(self._unsent), frames.DEFAULT_FRAME_SIZE, self._window, self._stream_window)

    def _write(self, kind: int, flags: int, stream: int, payload: bytes | memoryview) -> None:
        self._transport.write(frames.head(kind, flags, stream, len(payload)) + payload)

    def _fail(self, text: str) -> None:
        self._unsent = memoryview(b"")
        if not self._answer.done() and self._stream > 0:
            self._answer.set_exception(CallFailedError(text))


_NO_TABLE = b"\x20"
"""No entry of a dynamic table is used on this connection (RFC 7541 section 6.3): to our servers, equal blocks are then
equal headers."""
_CODES = {str(code.value) for code in Code}


def _headers(path: str) -> bytes:
    """`:method: POST` and `:scheme: http` are entries 3 and 6 of the static table."""
    said = {":path": path, ":authority": "localhost", "te": "trailers", "content-type": "application/grpc"}
    return b"\x83\x86" + b"".join(literal(name, value) for name, value in said.items())
