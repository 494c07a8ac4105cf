"""The server side of one HTTP/2 connection (RFC 9113): bytes in, streams to an `Answerer`, bytes out. No I/O."""

from collections.abc import Callable
from typing import Any, Protocol

from gatehouse.rpc.http2 import frames
from gatehouse.rpc.http2.frames import ErrorCode, FrameReader, ProtocolError
from gatehouse.rpc.http2.headers import Headers, RequestHeaders, UnreadableHeadersError
from gatehouse.rpc.service import MAX_STREAMS

WINDOW = 1024 * 1024
"""Bytes a peer may send on a stream, and on the connection, before we say that there is room for more."""

_DRAIN_PING = b"draining"


class Stream:
    """One request and its response. `call` belongs to the `Answerer`."""

    __slots__ = ("call", "closed_by_peer", "id", "unsent", "window")

    def __init__(self, number: int, window: int) -> None:
        self.id = number
        self.window = window  # bytes of a response that the peer still accepts
        self.closed_by_peer = False
        self.unsent: tuple[memoryview, bytes] | None = None  # held back by flow control: the body, the trailers
        self.call: Any = None


class Answerer(Protocol):
    """Handles the streams of a connection."""

    def opened(self, stream: Stream, headers: Headers) -> None: ...
    def received(self, stream: Stream, data: bytes, ended: bool) -> None: ...
    def reset(self, stream: Stream) -> None:
        """The peer cancelled it, or the connection has ended. It accepts no response any more."""
        ...


class Connection:
    """`write` gets every byte for the peer. `over` becomes true when the connection is to be closed.

    The effect of a peer's frame on a stream (section 5.1). Every error ends the connection:

    | the stream is | HEADERS            | DATA                   | RST_STREAM | WINDOW_UPDATE |
    |---------------|--------------------|------------------------|------------|---------------|
    | idle          | open, or sent with | error                  | error      | error         |
    |               | END_STREAM         |                        |            |               |
    | open          | sent; error where  | goes to the answerer;  | closed     | it may take   |
    |               | END_STREAM lacks   | sent with END_STREAM   |            | more          |
    | sent          | error              | error                  | closed     | it may take   |
    |               |                    |                        |            | more          |
    | closed        | nothing            | nothing                | nothing    | nothing       |

    *Sent* is half-closed (remote): the request is whole. The end of our answer closes a stream; in *open* RST_STREAM
    follows it. A stream that is opened while the connection drains, or above `MAX_STREAMS`, is closed at once
    (REFUSED_STREAM), and so is one whose window grows too large (FLOW_CONTROL_ERROR).
    """

    def __init__(self, write: Callable[[bytes], object], answerer: Answerer) -> None:
        self.over = False
        self._write = write
        self._answerer = answerer
        self._headers = RequestHeaders()
        self._streams: dict[int, Stream] = {}
        self._last_stream = 0
        self._frames = FrameReader(self._frame)
        self._greeting = b""
        self._greeted = False
        self._window = frames.DEFAULT_WINDOW
        self._stream_window = frames.DEFAULT_WINDOW
        self._frame_size = frames.DEFAULT_FRAME_SIZE
        self._unacknowledged = 0  # bytes received since the last update of the connection's window
        self._draining = False
        self._kinds: dict[int, Callable[[int, int, bytes], None]] = {
            frames.DATA: self._data,
            frames.HEADERS: self._request,
            frames.PRIORITY: self._ignore,
            frames.RST_STREAM: self._reset,
            frames.SETTINGS: self._settings,
            frames.PING: self._ping,
            frames.GOAWAY: self._ignore,
            frames.WINDOW_UPDATE: self._window_update,
        }
        settings = {
            frames.HEADER_TABLE_SIZE: 0,
            frames.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            frames.INITIAL_WINDOW_SIZE: WINDOW,
        }
        write(frames.settings(settings) + frames.window_update(0, WINDOW - frames.DEFAULT_WINDOW))

    @property
    def idle(self) -> bool:
        return not self._streams

    def feed(self, data: bytes) -> None:
        """Process bytes from the peer. Never raises: a protocol error sends GOAWAY and sets `over`."""
        if self.over:
            return
        try:
            self._frames.feed(data if self._greeted else self._after_greeting(data))
        except ProtocolError as error:
            self._write(frames.goaway(self._last_stream, error.code, str(error)))
            self.lost()

    def lost(self) -> None:
        """The connection is over: its streams are reset."""
        self.over = True
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            self._answerer.reset(stream)

    def drain(self) -> None:
        """Ask the peer to open no more streams; `over` once the open ones have ended.

        Streams that the peer opened before it read this are still accepted: its PING reply comes after them.
        """
        self._write(frames.goaway(frames.ANY_STREAM, ErrorCode.NO_ERROR) + frames.ping(_DRAIN_PING))

    def answer(self, stream: Stream, head: bytes, body: bytes, tail: bytes) -> None:
        """Send a whole answer: the blocks of its headers and trailers, and its body, as fast as the peer takes it."""
        if self._streams.get(stream.id) is not stream:
            return
        number, size = stream.id, len(body)
        begin = frames.head(frames.HEADERS, frames.END_HEADERS, number, len(head)) + head
        if size <= self._frame_size and size <= self._window and size <= stream.window:
            self._window -= size
            self._write(b"".join((begin, frames.head(frames.DATA, 0, number, size), body, self._end(stream, tail))))
        else:
            self._write(begin)
            stream.unsent = memoryview(body), tail
            self._send_on(stream)

    def refuse(self, stream: Stream, block: bytes) -> None:
        """Send a response that consists of headers only."""
        if self._streams.get(stream.id) is stream:
            self._write(self._end(stream, block))

    def taken(self, stream: Stream, size: int) -> None:
        """Return bytes of `stream` to the window: the peer may send as many again."""
        if not stream.closed_by_peer and size:
            self._write(frames.window_update(stream.id, size))

    def _end(self, stream: Stream, block: bytes) -> bytes:
        """Send the last frame of a response. A peer that still sends is told to stop (section 8.1)."""
        last = frames.head(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream.id, len(block)) + block
        self._forget(stream)
        return last if stream.closed_by_peer else last + frames.reset(stream.id, ErrorCode.NO_ERROR)

    def _send_on(self, stream: Stream) -> None:
        """Send as much of a held-back body as the windows allow."""
        if stream.unsent is None:
            return
        body, tail = stream.unsent
        while body and (size := min(len(body), self._frame_size, self._window, stream.window)) > 0:
            self._window -= size
            stream.window -= size
            self._write(frames.head(frames.DATA, 0, stream.id, size) + body[:size])
            body = body[size:]
        stream.unsent = body, tail
        if not body:
            self._write(self._end(stream, tail))

    def _forget(self, stream: Stream) -> None:
        del self._streams[stream.id]
        if self._draining and not self._streams:
            self.over = True

    def _after_greeting(self, data: bytes) -> bytes:
        """What comes after the client's preface (section 3.4); nothing while that is not whole."""
        self._greeting += data
        seen = self._greeting[: len(frames.PREFACE)]
        if not frames.PREFACE.startswith(seen):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "this is not HTTP/2")
        self._greeted = len(seen) == len(frames.PREFACE)
        return self._greeting[len(frames.PREFACE) :]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self.over:
            return
        handle = self._kinds.get(kind)
        if handle is not None:  # unknown kinds are to be ignored (section 5.5)
            handle(flags, stream, payload)
        elif kind == frames.PUSH_PROMISE:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a client can't push")

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        if number == 0 or number > self._last_stream:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "DATA on a stream that is not open")
        self._received(len(payload))
        stream = self._streams.get(number)
        if stream is None:
            return  # on its way when we were done with it
        if stream.closed_by_peer:
            raise ProtocolError(ErrorCode.STREAM_CLOSED, "DATA after the end of a request")
        stream.closed_by_peer = ended = bool(flags & frames.END_STREAM)
        data = frames.unpadded(flags, payload)
        if len(data) < len(payload):
            self.taken(stream, len(payload) - len(data))
        self._answerer.received(stream, data, ended)

    def _received(self, size: int) -> None:
        """The `Answerer` bounds what is held, so the connection's own window is reopened at once."""
        self._unacknowledged += size
        if self._unacknowledged >= WINDOW // 2:
            self._write(frames.window_update(0, self._unacknowledged))
            self._unacknowledged = 0

    def _request(self, flags: int, number: int, block: bytes) -> None:
        """A new request, or the trailers of one. The block is decoded in any case: HPACK has state."""
        if number % 2 == 0:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a client's streams have odd numbers")
        try:
            headers = self._headers.read(block)
        except UnreadableHeadersError as error:
            raise ProtocolError(ErrorCode.COMPRESSION_ERROR, str(error)) from None
        ended = bool(flags & frames.END_STREAM)
        if number <= self._last_stream:
            self._trailers(number, ended)
            return
        self._last_stream = number
        if self._draining or len(self._streams) >= MAX_STREAMS:
            self._write(frames.reset(number, ErrorCode.REFUSED_STREAM))
            return
        stream = self._streams[number] = Stream(number, self._stream_window)
        self._answerer.opened(stream, headers)
        if ended:
            stream.closed_by_peer = True
            self._answerer.received(stream, b"", True)

    def _trailers(self, number: int, ended: bool) -> None:
        stream = self._streams.get(number)
        if stream is None:
            return
        if stream.closed_by_peer or not ended:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "headers in the middle of a request")
        stream.closed_by_peer = True
        self._answerer.received(stream, b"", True)

    def _reset(self, _flags: int, number: int, payload: bytes) -> None:
        if number == 0 or number > self._last_stream:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on an idle stream")
        if len(payload) != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "an RST_STREAM has four bytes")
        stream = self._streams.get(number)
        if stream is not None:
            self._forget(stream)
            self._answerer.reset(stream)

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        for name, value in frames.read_settings(flags, number, payload):
            if name == frames.INITIAL_WINDOW_SIZE:
                self._resize_streams(value)
            elif name == frames.MAX_FRAME_SIZE:
                self._frame_size = value
        if not flags & frames.ACK:
            self._write(frames.SETTINGS_ACK)

    def _resize_streams(self, window: int) -> None:
        """Section 6.9.2: it holds for the streams that are open, too."""
        grown, self._stream_window = window - self._stream_window, window
        for stream in list(self._streams.values()):
            stream.window += grown
            if stream.window > frames.MAX_WINDOW:
                raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
            self._send_on(stream)

    def _ping(self, flags: int, number: int, payload: bytes) -> None:
        payload = frames.read_ping(number, payload)
        if not flags & frames.ACK:
            self._write(frames.ping(payload, ack=True))
        elif payload == _DRAIN_PING and not self._draining:
            self._draining = True
            self._write(frames.goaway(self._last_stream, ErrorCode.NO_ERROR))
            self.over = not self._streams

    def _window_update(self, _flags: int, number: int, payload: bytes) -> None:
        increment = frames.read_increment(payload)
        if number == 0:
            self._window += increment
            if self._window > frames.MAX_WINDOW:
                raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
            for waiting in list(self._streams.values()):
                self._send_on(waiting)
        elif number > self._last_stream:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
        elif (stream := self._streams.get(number)) is not None:
            stream.window += increment
            if stream.window > frames.MAX_WINDOW:
                self._give_up(stream, ErrorCode.FLOW_CONTROL_ERROR)
            else:
                self._send_on(stream)

    def _give_up(self, stream: Stream, code: ErrorCode) -> None:
        """The peer broke the protocol on this stream alone (section 5.4.2)."""
        self._write(frames.reset(stream.id, code))
        self._forget(stream)
        self._answerer.reset(stream)

    def _ignore(self, flags: int, number: int, payload: bytes) -> None:
        """Priorities are advice; a peer that leaves finishes its streams first."""
