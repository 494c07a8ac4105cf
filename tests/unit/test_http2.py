"""Our side of an HTTP/2 connection, spoken to by `h2`, another implementation, and by peers that break the rules."""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterator
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.rpc.http2 import frames
from gatehouse.rpc.http2.calls import MAX_HELD_BYTES, Calls
from gatehouse.rpc.http2.connection import WINDOW
from gatehouse.rpc.http2.frames import ErrorCode
from gatehouse.rpc.service import MAX_MESSAGE_BYTES, MAX_STREAMS, ClientStream, Code, Context, Unary

SAY = [(":method", "POST"), (":scheme", "http"), (":path", "/t.Echo/Say"), (":authority", "x")]
GRPC = [("content-type", "application/grpc"), ("te", "trailers")]


def at(path: str) -> list[tuple[str, str]]:
    return [(name, path if name == ":path" else value) for name, value in SAY] + GRPC


def message(text: bytes, compressed: int = 0) -> bytes:
    return struct.pack(">BL", compressed, len(text)) + text


class Pair:
    """A server's connection, and a client's that speaks to it in memory."""

    def __init__(self, *, window: int | None = None) -> None:
        self.sent = b""
        self.calls = Calls(
            {
                "/t.Echo/Say": Unary(lambda request, _context: request, bytes, bytes),
                "/t.Echo/Wait": Unary(self._wait, bytes, bytes),
                "/t.Echo/Count": ClientStream(self._count, bytes, bytes),
            },
            self._write,
        )
        self.server = self.calls.connection
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.client.initiate_connection()
        if window is not None:
            self.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.events: list[Any] = []
        self.cancelled = 0
        self.counted: list[int] = []
        self.go = asyncio.Event()
        self.exchange()

    def _write(self, data: bytes) -> None:
        self.sent += data

    async def _wait(self, request: bytes, _context: Context) -> bytes:
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return request

    async def _count(self, requests: AsyncIterator[bytes], _context: Context) -> bytes:
        self.counted = [len(request) async for request in requests]
        return str(self.counted).encode()

    def exchange(self) -> None:
        """Let both read what the other has sent, until neither has more to say."""
        while (to_server := self.client.data_to_send()) or self.sent:
            self.server.feed(to_server)
            to_client, self.sent = self.sent, b""
            if to_client:
                self.events += self.client.receive_data(to_client)

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
            self.exchange()

    def ask(self, body: bytes, path: str = "/t.Echo/Say", *, end: bool = True) -> int:
        number = self.client.get_next_available_stream_id()
        self.client.send_headers(number, at(path))
        self.client.send_data(number, body, end_stream=end)
        self.exchange()
        return number

    def body(self, number: int) -> bytes:
        return b"".join(e.data for e in self.of(h2.events.DataReceived, number))

    def status(self, number: int) -> int:
        """The gRPC status that came, in trailers or with the headers."""
        ends = [*self.of(h2.events.TrailersReceived, number), *self.of(h2.events.ResponseReceived, number)]
        return next(int(dict(e.headers)["grpc-status"]) for e in ends if "grpc-status" in dict(e.headers))

    def of(self, kind: type, number: int | None = None) -> Iterator[Any]:
        return (e for e in self.events if isinstance(e, kind) and number in (None, getattr(e, "stream_id", None)))


def test_a_call_is_answered_with_headers_message_and_trailers() -> None:
    pair = Pair()
    number = pair.ask(message(b"hello"))
    [head] = pair.of(h2.events.ResponseReceived, number)
    assert dict(head.headers) == {":status": "200", "content-type": "application/grpc"}
    assert (pair.body(number), pair.status(number)) == (message(b"hello"), Code.OK)
    assert pair.server.idle


def test_the_same_headers_mean_the_same_a_thousand_times_over_and_others_something_else() -> None:
    pair = Pair()
    for count in range(1000):
        assert pair.body(pair.ask(message(b"%d" % count))) == message(b"%d" % count)
        assert pair.status(pair.ask(b"", path=f"/t.Echo/{count}")) == Code.UNIMPLEMENTED


def test_an_answer_larger_than_the_window_is_sent_as_the_peer_takes_it() -> None:
    pair = Pair(window=1000)
    text = bytes(range(256)) * 1000
    number = pair.client.get_next_available_stream_id()
    pair.client.send_headers(number, at("/t.Echo/Say"))
    for start in range(0, len(text) + 5, 16_384):
        pair.client.send_data(number, message(text)[start : start + 16_384])
        pair.exchange()
    pair.client.end_stream(number)
    pair.exchange()
    assert len(pair.body(number)) == 1000
    assert pair.body(pair.ask(message(b"small"))) == message(b"small")  # it holds up nobody else
    while len(pair.body(number)) < len(text) + 5:
        pair.client.increment_flow_control_window(1000)
        pair.client.increment_flow_control_window(1000, number)
        pair.exchange()
    assert (pair.body(number), pair.status(number)) == (message(text), Code.OK)


def test_a_message_of_the_largest_size_passes_through_smaller_windows() -> None:
    pair = Pair(window=2 * MAX_MESSAGE_BYTES)
    pair.client.increment_flow_control_window(2 * MAX_MESSAGE_BYTES)
    text = b"x" * MAX_MESSAGE_BYTES
    number = pair.client.get_next_available_stream_id()
    pair.client.send_headers(number, at("/t.Echo/Say"))
    left = message(text)
    while left:
        size = min(pair.client.local_flow_control_window(number), pair.client.max_outbound_frame_size)
        assert size > 0, "the server gives no room, and waits for more"
        pair.client.send_data(number, left[:size], end_stream=len(left) <= size)
        left = left[size:]
        pair.exchange()
    assert pair.body(number) == message(text)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", Code.INTERNAL),
        (message(b"hello")[:-1], Code.INTERNAL),
        (message(b"one") + message(b"two"), Code.INTERNAL),
        (message(b"hello", compressed=1), Code.UNIMPLEMENTED),
        (struct.pack(">BL", 0, MAX_MESSAGE_BYTES + 1), Code.RESOURCE_EXHAUSTED),
    ],
)
def test_what_is_no_message_is_refused_and_the_connection_goes_on(body: bytes, code: Code) -> None:
    pair = Pair()
    assert pair.status(pair.ask(body)) == code
    assert pair.status(pair.ask(message(b"next"))) == Code.OK


def test_f45_a_message_too_large_is_refused_before_it_has_come() -> None:
    pair = Pair()
    number = pair.ask(struct.pack(">BL", 0, 2**32 - 1), end=False)
    assert pair.status(number) == Code.RESOURCE_EXHAUSTED
    [reset] = pair.of(h2.events.StreamReset, number)
    assert reset.error_code == ErrorCode.NO_ERROR


def test_f45_unfinished_messages_take_bounded_memory() -> None:
    pair = Pair()
    begun = struct.pack(">BL", 0, MAX_MESSAGE_BYTES) + b"x" * 60_000
    refused = 0
    for _ in range(2 * MAX_HELD_BYTES // 60_000):
        number = pair.client.get_next_available_stream_id()
        pair.client.send_headers(number, at("/t.Echo/Say"))
        for start in range(0, len(begun), 15_000):
            pair.client.send_data(number, begun[start : start + 15_000])
            pair.exchange()
            if any(pair.of(h2.events.StreamReset, number)):
                refused += 1
                break
    assert refused > 100
    assert pair.calls._held <= MAX_HELD_BYTES + len(begun)


def test_f45_more_calls_than_agreed_are_refused_and_may_be_tried_elsewhere() -> None:
    async def run() -> None:
        pair = Pair()
        pair.client.remote_settings.update({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 2**31})
        pair.client.remote_settings.acknowledge()
        numbers = [pair.ask(message(b"x"), "/t.Echo/Wait") for _ in range(MAX_STREAMS + 1)]
        [reset] = pair.of(h2.events.StreamReset)
        assert (reset.stream_id, reset.error_code) == (numbers[-1], ErrorCode.REFUSED_STREAM)
        pair.go.set()
        await pair.settle()
        assert all(pair.status(number) == Code.OK for number in numbers[:-1])

    asyncio.run(run())


def test_f36_calls_that_are_given_up_at_once_leave_nothing_behind() -> None:
    async def run() -> None:
        pair = Pair()
        for _ in range(5000):
            number = pair.ask(message(b"x"), "/t.Echo/Wait")
            pair.client.reset_stream(number)
            pair.exchange()
        await asyncio.sleep(0)
        assert pair.server.idle
        assert pair.calls._held == 0
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


def test_a_call_that_its_client_gives_up_is_cancelled() -> None:
    async def run() -> None:
        pair = Pair()
        number = pair.ask(message(b"x"), "/t.Echo/Wait")
        await asyncio.sleep(0)
        pair.client.reset_stream(number)
        pair.exchange()
        await pair.settle()
        assert pair.cancelled == 1

    asyncio.run(run())


def test_a_stream_of_messages_is_read_in_order_however_it_is_cut() -> None:
    async def run() -> None:
        pair = Pair()
        sizes = [0, 1, 70_000, 3, 200_000, 0]
        bytes_ = b"".join(message(b"x" * size) for size in sizes)
        number = pair.client.get_next_available_stream_id()
        pair.client.send_headers(number, at("/t.Echo/Count"))
        for start in range(0, len(bytes_), 7_001):
            pair.client.send_data(number, bytes_[start : start + 7_001])
            await pair.settle()
        pair.client.end_stream(number)
        await pair.settle()
        assert pair.body(number) == message(str(sizes).encode())

    asyncio.run(run())


def test_f09_a_reader_that_is_slow_makes_its_client_wait() -> None:
    async def run() -> None:
        pair = Pair()
        number = pair.client.get_next_available_stream_id()
        pair.client.send_headers(number, at("/t.Echo/Count"))
        sent = 0
        while (size := min(pair.client.local_flow_control_window(number), 16_000)) > 5:
            pair.client.send_data(number, message(b"x" * (size - 5)))  # and nobody reads: no tick passes
            pair.exchange()
            sent += size
        assert WINDOW <= sent <= 3 * WINDOW
        await pair.settle()
        assert pair.client.local_flow_control_window(number) > WINDOW // 2

    asyncio.run(run())


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return frames.head(kind, flags, stream, len(payload)) + payload


def ask_in_bytes(number: int, path: bytes, text: bytes) -> bytes:
    """One whole call, as frames."""
    block = b"\x83\x86\x04" + bytes([len(path)]) + path + b"\x0f\x10\x10application/grpc"
    head = frame(frames.HEADERS, frames.END_HEADERS, number, block)
    return head + frame(frames.DATA, frames.END_STREAM, number, message(text))


def test_a_connection_that_drains_takes_what_is_on_its_way_and_then_no_more() -> None:
    async def run() -> None:
        pair = Pair()
        server = pair.server
        server.feed(ask_in_bytes(1, b"/t.Echo/Wait", b"first"))
        server.drain()
        told, pair.sent = pair.sent, b""
        assert frames.goaway(frames.ANY_STREAM, ErrorCode.NO_ERROR) in told
        server.feed(ask_in_bytes(3, b"/t.Echo/Say", b"late"))  # sent before the client has read of it
        assert message(b"late") in pair.sent
        server.feed(frame(frames.PING, frames.ACK, 0, told[-8:]))
        assert frames.goaway(3, ErrorCode.NO_ERROR) in pair.sent
        server.feed(ask_in_bytes(5, b"/t.Echo/Say", b"too late"))
        assert frames.reset(5, ErrorCode.REFUSED_STREAM) in pair.sent
        assert not server.over
        pair.go.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert message(b"first") in pair.sent
        assert server.over

    asyncio.run(run())


def test_what_is_not_grpc_gets_a_415() -> None:
    pair = Pair()
    pair.client.send_headers(1, SAY, end_stream=True)
    pair.exchange()
    [head] = pair.of(h2.events.ResponseReceived, 1)
    assert dict(head.headers)[":status"] == "415"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", ErrorCode.PROTOCOL_ERROR),
        (frames.PREFACE + frames.head(frames.DATA, 0, 1, 1 << 20), ErrorCode.FRAME_SIZE_ERROR),
        (frames.PREFACE + frame(frames.DATA, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),
        (frames.PREFACE + frame(frames.HEADERS, frames.END_HEADERS, 2, b"\x88"), ErrorCode.PROTOCOL_ERROR),
        (
            frames.PREFACE + frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff\xff"),
            ErrorCode.COMPRESSION_ERROR,
        ),
        (
            frames.PREFACE + frame(frames.HEADERS, 0, 1, b"\x88") + frame(frames.PING, 0, 0, b"x" * 8),
            ErrorCode.PROTOCOL_ERROR,
        ),
        (frames.PREFACE + frame(frames.CONTINUATION, 0, 1, b"\x88"), ErrorCode.PROTOCOL_ERROR),
        (frames.PREFACE + frame(frames.HEADERS, frames.PADDED, 1, b"\x09ab"), ErrorCode.PROTOCOL_ERROR),
        (frames.PREFACE + frame(frames.PUSH_PROMISE, 0, 1, b"\x00" * 4), ErrorCode.PROTOCOL_ERROR),
        (frames.PREFACE + frame(frames.SETTINGS, 0, 0, b"\x00" * 5), ErrorCode.FRAME_SIZE_ERROR),
        (frames.PREFACE + frame(frames.SETTINGS, 0, 0, struct.pack(">HL", 4, 2**31)), ErrorCode.FLOW_CONTROL_ERROR),
        (frames.PREFACE + frame(frames.WINDOW_UPDATE, 0, 0, b"\x00" * 4), ErrorCode.PROTOCOL_ERROR),
        (frames.PREFACE + frame(frames.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 2, ErrorCode.FLOW_CONTROL_ERROR),
        (frames.PREFACE + frame(frames.RST_STREAM, 0, 1, b"\x00" * 4), ErrorCode.PROTOCOL_ERROR),
        (frames.PREFACE + frame(frames.SETTINGS, 0, 0, struct.pack(">HL", 5, 1)), ErrorCode.PROTOCOL_ERROR),
        (frames.PREFACE + frame(frames.WINDOW_UPDATE, 0, 1, b"\0\0\0\1"), ErrorCode.PROTOCOL_ERROR),
        (frames.PREFACE + frame(frames.PING, 0, 1, b"x" * 8), ErrorCode.PROTOCOL_ERROR),
        (frames.PREFACE + frame(frames.PING, 0, 0, b"x"), ErrorCode.FRAME_SIZE_ERROR),
        (
            frames.PREFACE + frame(frames.HEADERS, 0, 1) + frame(frames.CONTINUATION, 0, 1, b"\x88" * 16_000) * 5,
            ErrorCode.ENHANCE_YOUR_CALM,
        ),
    ],
)
def test_a_peer_that_breaks_the_protocol_is_told_so_and_left(data: bytes, code: ErrorCode) -> None:
    sent: list[bytes] = []
    server = Calls({}, sent.append).connection
    server.feed(data)
    assert server.over
    last = sent[-1]
    assert last[3] == frames.GOAWAY
    assert int.from_bytes(last[13:17], "big") == code


PIECES = st.one_of(
    st.binary(max_size=40),
    st.builds(frame, st.integers(0, 11), st.integers(0, 255), st.integers(0, 7), st.binary(max_size=60)),
    st.just(frame(frames.HEADERS, 5, 1, b"\x83\x86\x04\x0b/t.Echo/Say\x0f\x10\x10application/grpc")),
    st.just(frame(frames.HEADERS, 4, 3, b"\x83\x86\x04\x0b/t.Echo/Say\x0f\x10\x10application/grpc")),
    st.just(frame(frames.DATA, 1, 3, message(b"hello"))),
    st.just(frames.SETTINGS_ACK),
)


@given(st.lists(PIECES, max_size=20), st.booleans())
def test_f45_no_bytes_of_a_peer_make_it_raise(pieces: list[bytes], greets: bool) -> None:
    calls = Calls({"/t.Echo/Say": Unary(lambda request, _context: request, bytes, bytes)}, lambda _data: None)
    server = calls.connection
    for piece in [frames.PREFACE, *pieces] if greets else pieces:
        server.feed(piece)
    assert calls._held <= sum(map(len, pieces))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.binary(max_size=300))
def test_answers_do_not_depend_on_how_the_bytes_arrive(cuts: list[int], text: bytes) -> None:
    client = h2.connection.H2Connection()
    client.initiate_connection()
    for number in (1, 3, 5):
        client.send_headers(number, at("/t.Echo/Say"))
        client.send_data(number, message(text), end_stream=True)
    data = client.data_to_send()
    outputs = []
    for sizes in ([len(data)], cuts):
        sent: list[bytes] = []
        server = Calls({"/t.Echo/Say": Unary(lambda request, _context: request, bytes, bytes)}, sent.append).connection
        rest, turn = data, 0
        while rest:
            size = sizes[turn % len(sizes)]
            server.feed(rest[:size])
            rest, turn = rest[size:], turn + 1
        outputs.append(b"".join(sent))
    assert outputs[0] == outputs[1]


@pytest.mark.asyncio
@pytest.mark.parametrize("lost", [False, True], ids=["reset", "connection lost"])
async def test_what_a_client_streamed_before_it_broke_off_is_read(lost: bool) -> None:
    pair = Pair()
    number = pair.ask(message(b"a") + message(b"bc") + message(b"def")[:6], "/t.Echo/Count", end=False)
    if lost:
        pair.server.lost()
    else:
        pair.client.reset_stream(number)
        pair.exchange()
    await pair.settle()
    assert pair.counted == [1, 2], "what is whole"
