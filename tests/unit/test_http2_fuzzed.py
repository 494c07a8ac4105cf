"""Both sides of HTTP/2 against whatever a peer may send: the table of `Connection` cell by cell, and random bytes."""

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.rpc.http2 import client as client_side
from gatehouse.rpc.http2 import frames
from gatehouse.rpc.http2.client import CallFailedError
from gatehouse.rpc.http2.connection import Connection, Stream
from gatehouse.rpc.http2.frames import ErrorCode
from gatehouse.rpc.http2.headers import ANSWER, Headers, trailers
from gatehouse.rpc.http2.messages import framed

BLOCK = b"\x83\x86\x04\x01/"
IDLE, OPEN, SENT, CLOSED, ERROR = "idle", "open", "sent", "closed", "error"
TABLE: dict[tuple[int, int], dict[str, str]] = {
    # END_STREAM is looked at for HEADERS and DATA only.
    (frames.HEADERS, 0): {IDLE: OPEN, OPEN: ERROR, SENT: ERROR, CLOSED: CLOSED},
    (frames.HEADERS, 1): {IDLE: SENT, OPEN: SENT, SENT: ERROR, CLOSED: CLOSED},
    (frames.DATA, 0): {IDLE: ERROR, OPEN: OPEN, SENT: ERROR, CLOSED: CLOSED},
    (frames.DATA, 1): {IDLE: ERROR, OPEN: SENT, SENT: ERROR, CLOSED: CLOSED},
    (frames.RST_STREAM, 0): {IDLE: ERROR, OPEN: CLOSED, SENT: CLOSED, CLOSED: CLOSED},
    (frames.WINDOW_UPDATE, 0): {IDLE: ERROR, OPEN: OPEN, SENT: SENT, CLOSED: CLOSED},
}
PAYLOADS = {
    frames.HEADERS: BLOCK,
    frames.DATA: b"some",
    frames.RST_STREAM: b"\0\0\0\x08",
    frames.WINDOW_UPDATE: b"\0\0\0\1",
}


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return frames.head(kind, flags, stream, len(payload)) + payload


@dataclass
class Answerer:
    """Notes what it is told, and answers when a test says so."""

    streams: dict[int, Stream] = field(default_factory=dict)
    received_: dict[int, bytes] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)

    def opened(self, stream: Stream, headers: Headers) -> None:
        assert stream.id not in self.streams
        self.streams[stream.id], self.received_[stream.id] = stream, b""

    def received(self, stream: Stream, data: bytes, ended: bool) -> None:
        assert stream.id not in self.ended | self.gone, "nothing comes after the end"
        self.received_[stream.id] += data
        if ended:
            self.ended.add(stream.id)

    def reset(self, stream: Stream) -> None:
        assert stream.id not in self.gone
        self.gone.add(stream.id)


class Table:
    """What the table says that becomes of streams."""

    def __init__(self) -> None:
        self.states: dict[int, str] = {}
        self.received: dict[int, bytes] = {}
        self.broken = False

    def take(self, kind: int, end: int, number: int) -> None:
        before = self.states.get(number, IDLE)
        if before == IDLE and number < max(self.states, default=0):
            before = CLOSED  # section 5.1.1: a lower number can't be opened any more
        after = TABLE[kind, end if kind in (frames.HEADERS, frames.DATA) else 0][before]
        self.broken = after == ERROR
        if kind == frames.DATA and before == OPEN and not self.broken:
            self.received[number] = self.received.get(number, b"") + PAYLOADS[frames.DATA]
        if before != CLOSED or number in self.states:
            self.states[number] = after


STEPS = st.one_of(
    st.tuples(st.sampled_from(sorted(PAYLOADS)), st.integers(0, 1), st.sampled_from([1, 3, 5])),
    st.tuples(st.just("answer"), st.just(0), st.sampled_from([1, 3, 5])),
)


@given(st.lists(STEPS, max_size=25), st.booleans())
def test_streams_become_what_the_table_says(steps: list[tuple[Any, int, int]], padded: bool) -> None:
    answerer, sent, table = Answerer(), list[bytes](), Table()
    server = Connection(sent.append, answerer)
    server.feed(frames.PREFACE + frames.settings({}))
    for kind, end, number in steps:
        if kind == "answer":
            if table.states.get(number) in (OPEN, SENT):
                sent.clear()
                server.answer(answerer.streams[number], ANSWER, b"x", trailers(0))
                stops = frames.reset(number, ErrorCode.NO_ERROR) in b"".join(sent)
                assert stops == (table.states[number] == OPEN)
                table.states[number] = CLOSED
            continue
        table.take(kind, end, number)
        server.feed(_padded(kind, end, number) if padded else frame(kind, _flags(kind, end), number, PAYLOADS[kind]))
        assert server.over == table.broken
        if table.broken:
            break
    running = {number for number, state in table.states.items() if state in (OPEN, SENT)}
    if table.broken:
        assert sent[-1][3] == frames.GOAWAY
        assert running <= answerer.gone
    else:
        assert not running & answerer.gone
    assert {number for number, state in table.states.items() if state == SENT} <= answerer.ended
    assert {n: data for n, data in answerer.received_.items() if data} == table.received


def _flags(kind: int, end: int) -> int:
    return end | (frames.END_HEADERS if kind == frames.HEADERS else 0) if kind in (frames.HEADERS, frames.DATA) else 0


def _padded(kind: int, end: int, number: int) -> bytes:
    """The same with padding, a priority and a header block in three frames."""
    payload, flags = PAYLOADS[kind], _flags(kind, end)
    if kind == frames.DATA:
        return frame(kind, flags | frames.PADDED, number, b"\3" + payload + b"\0" * 3)
    if kind != frames.HEADERS:
        return frame(kind, flags, number, payload)
    first = b"\2" + b"\0\0\0\0\x10" + payload[:1] + b"\0\0"
    flags = (flags & ~frames.END_HEADERS) | frames.PADDED | frames.WITH_PRIORITY
    middle = frame(frames.CONTINUATION, 0, number, payload[1:2])
    last = frame(frames.CONTINUATION, frames.END_HEADERS, number, payload[2:])
    return frame(kind, flags, number, first) + middle + last


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2**32 - 1)), max_size=6))
def test_settings_that_are_refused_are_not_taken_over(settings: list[tuple[int, int]]) -> None:
    server = Connection(lambda _data: None, Answerer())
    server.feed(frames.PREFACE)
    server.feed(frame(frames.SETTINGS, 0, 0, b"".join(struct.pack(">HL", *each) for each in settings)))
    assert frames.DEFAULT_FRAME_SIZE <= server._frame_size < 2**24
    assert 0 <= server._stream_window <= frames.MAX_WINDOW
    if server.over:
        assert (server._frame_size, server._stream_window) == (frames.DEFAULT_FRAME_SIZE, frames.DEFAULT_WINDOW)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (frame(frames.WINDOW_UPDATE, 0, 0, b"\0" * 4), "WINDOW_UPDATE with a zero increment"),
        (frame(frames.WINDOW_UPDATE, 0, 1, b"\0\0\0\1"), "WINDOW_UPDATE on an idle stream"),
        (frame(frames.RST_STREAM, 0, 1, b"\0" * 4), "RST_STREAM on an idle stream"),
        (frame(frames.CONTINUATION, 4, 1, b"\x88"), "CONTINUATION without HEADERS"),
        (frame(frames.HEADERS, 0x24, 1, b"\0" * 4), "HEADERS too short for the priority in them"),
        (frame(frames.SETTINGS, 0, 1), "SETTINGS on a stream"),
        (frame(frames.SETTINGS, 1, 0, b"\0" * 6), "malformed SETTINGS"),
    ],
)
def test_a_peer_is_told_what_it_broke_by_its_name(data: bytes, text: str) -> None:
    sent: list[bytes] = []
    Connection(sent.append, Answerer()).feed(frames.PREFACE + data)
    assert sent[-1].endswith(text.encode())


def test_a_stream_whose_window_grows_too_large_ends_alone() -> None:
    sent, answerer = list[bytes](), Answerer()
    server = Connection(sent.append, answerer)
    server.feed(frames.PREFACE + frame(frames.HEADERS, 5, 1, BLOCK) + frame(frames.HEADERS, 5, 3, BLOCK))
    server.feed(frame(frames.WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff"))
    assert (sent[-1], answerer.gone, server.over) == (frames.reset(1, ErrorCode.FLOW_CONTROL_ERROR), {1}, False)


class Transport(asyncio.Transport):
    """Hands what is written to `peer`."""

    def __init__(self, peer: Callable[[bytes], None] = lambda _data: None) -> None:
        super().__init__()
        self.closed = False
        self._peer = peer

    def write(self, data: Any) -> None:
        self._peer(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def connected(peer: Callable[[bytes], None] = lambda _data: None) -> client_side._Connection:
    connection = client_side._Connection(asyncio.get_running_loop())
    connection.connection_made(Transport(peer))
    return connection


def asked(connection: client_side._Connection, text: bytes = b"hi") -> "asyncio.Future[bytes]":
    return connection.ask(client_side._headers("/t.Echo/Say"), framed(text))


ANSWERS = st.one_of(
    st.binary(max_size=40),
    st.builds(frame, st.integers(0, 11), st.integers(0, 255), st.integers(0, 3), st.binary(max_size=60)),
    st.just(frame(frames.HEADERS, 4, 1, ANSWER)),
    st.just(frame(frames.DATA, 0, 1, framed(b"hello"))),
    st.just(frame(frames.HEADERS, 5, 1, trailers(0))),
    st.just(frames.settings({frames.INITIAL_WINDOW_SIZE: 0})),
)


@given(st.lists(ANSWERS, max_size=15), st.booleans())
def test_no_bytes_of_a_server_make_the_client_raise(pieces: list[bytes], asks: bool) -> None:
    async def run() -> None:
        connection = connected()
        answer = asked(connection) if asks else None
        for piece in pieces:
            connection.data_received(piece)
        connection.connection_lost(None)
        if answer is not None:
            assert answer.done(), "whoever asked is told, whatever came"
            assert isinstance(answer.exception(), CallFailedError | None)

    asyncio.run(run())


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.binary(max_size=300))
def test_an_answer_does_not_depend_on_how_its_bytes_arrive(cuts: list[int], text: bytes) -> None:
    whole = frame(frames.HEADERS, 4, 1, ANSWER) + frame(frames.DATA, 0, 1, framed(text))
    rest, turn = frames.settings({}) + whole + frame(frames.HEADERS, 5, 1, trailers(0)), 0

    async def run(rest: bytes, turn: int) -> None:
        connection = connected()
        answer = asked(connection)
        while rest:
            size = cuts[turn % len(cuts)]
            connection.data_received(rest[:size])
            rest, turn = rest[size:], turn + 1
        assert answer.result() == text

    asyncio.run(run(rest, turn))


def test_an_answer_in_padded_frames_with_headers_in_pieces_is_read() -> None:
    """As another implementation sends them."""
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    server.initiate_connection()

    async def run() -> None:
        connection = connected(lambda data: events.extend(server.receive_data(data)))
        answer = asked(connection)
        server.send_headers(1, [(":status", "200"), ("content-type", "application/grpc"), ("x-long", "y" * 40_000)])
        server.send_data(1, framed(b"hello"), pad_length=200)
        server.send_headers(1, [("grpc-status", "0"), ("x-long", "z" * 40_000)], end_stream=True)
        sent = server.data_to_send()
        assert bytes([frames.CONTINUATION, frames.END_HEADERS, 0, 0, 0, 1]) in sent
        connection.data_received(sent)
        assert answer.result() == b"hello"

    events: list[Any] = []
    asyncio.run(run())


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (frames.head(frames.DATA, 0, 1, 1 << 20), "a frame is larger than was agreed"),
        (frame(frames.CONTINUATION, 4, 1, b"\x88"), "CONTINUATION without HEADERS"),
        (frame(frames.HEADERS, 5, 1, b"\xff\xff\xff\xff"), "headers that can't be read"),
        (frame(frames.DATA, 8, 1, b"\x09ab"), "more padding than payload"),
        (frame(frames.DATA, 0, 3, b"ab"), "an answer on an idle stream"),
        (frame(frames.PUSH_PROMISE, 4, 1, b"\0\0\0\2"), "a push that was not allowed"),
        (frames.settings({frames.MAX_FRAME_SIZE: 1}), "a setting is out of range"),
        (frame(frames.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), "a window is too large"),
    ],
)
def test_a_server_that_breaks_the_protocol_is_named_and_left(data: bytes, text: str) -> None:
    async def run() -> None:
        sent: list[bytes] = []
        connection = connected(sent.append)
        answer = asked(connection)
        connection.data_received(data)
        with pytest.raises(CallFailedError, match=text):
            answer.result()
        assert connection.over
        assert sent[-1][3] == frames.GOAWAY

    asyncio.run(run())


@pytest.mark.parametrize("body", [b"", framed(b"hello")[:-1], framed(b"a") + framed(b"b"), b"\1\0\0\0\0"])
def test_an_answer_that_is_not_one_whole_message_is_none(body: bytes) -> None:
    async def run() -> None:
        connection = connected()
        answer = asked(connection)
        head, end = frame(frames.HEADERS, 4, 1, ANSWER), frame(frames.HEADERS, 5, 1, trailers(0))
        connection.data_received(head + frame(frames.DATA, 0, 1, body) + end)
        with pytest.raises(CallFailedError, match="no message"):
            answer.result()

    asyncio.run(run())
