"""HTTP/2 frames (RFC 9113, sections 4 and 6): their numbers, encoding, and the parsing that client and server share."""

from collections.abc import Callable
from enum import IntEnum
from struct import Struct

from gatehouse.contract.failures import GatehouseError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x01
END_HEADERS = 0x04
PADDED = 0x08
WITH_PRIORITY = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)
"""Identifiers of settings."""

LEAST = {MAX_FRAME_SIZE: 2**14}
MOST = {ENABLE_PUSH: 1, MAX_FRAME_SIZE: 2**24 - 1}
"""Their ranges (section 6.5.2)."""

DEFAULT_WINDOW = 65_535
DEFAULT_FRAME_SIZE = 16_384
MAX_WINDOW = 2**31 - 1
ANY_STREAM = 2**31 - 1
"""In a first GOAWAY: streams that the peer has already opened are still accepted (section 6.8)."""

MAX_BLOCK_BYTES = 64 * 1024
"""Of a header block that comes in several frames."""

_PRIORITY_BYTES = 5
_OF_HEADERS = (HEADERS, CONTINUATION)
_STREAM = 2**31 - 1  # of the number in a head: the first bit is reserved

HEAD = Struct(">HBBBL")
"""What every frame begins with: its length (16 bits, then 8), kind, flags and stream."""

SETTING = Struct(">HL")
_LONG = Struct(">L")
_TWO_LONGS = Struct(">LL")


class ErrorCode(IntEnum):
    """Section 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    FLOW_CONTROL_ERROR = 0x3
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class ProtocolError(GatehouseError):
    """A connection error of the peer (section 5.4.1)."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


def head(kind: int, flags: int, stream: int, length: int) -> bytes:
    """The nine bytes before a payload of `length`."""
    return HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream)


def settings(values: dict[int, int]) -> bytes:
    payload = b"".join(SETTING.pack(*item) for item in values.items())
    return head(SETTINGS, 0, 0, len(payload)) + payload


SETTINGS_ACK = head(SETTINGS, ACK, 0, 0)


def window_update(stream: int, credit: int) -> bytes:
    return head(WINDOW_UPDATE, 0, stream, 4) + _LONG.pack(credit)


def reset(stream: int, code: ErrorCode) -> bytes:
    return head(RST_STREAM, 0, stream, 4) + _LONG.pack(code)


def ping(payload: bytes, *, ack: bool = False) -> bytes:
    return head(PING, ACK if ack else 0, 0, 8) + payload


def goaway(last_stream: int, code: ErrorCode, text: str = "") -> bytes:
    payload = _TWO_LONGS.pack(last_stream, code) + text.encode()
    return head(GOAWAY, 0, 0, len(payload)) + payload


def read_settings(flags: int, stream: int, payload: bytes) -> list[tuple[int, int]]:
    """The settings of a frame, in their order, each within its bounds. Raises `ProtocolError`."""
    if stream:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
    if len(payload) % SETTING.size or (flags & ACK and payload):
        raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "malformed SETTINGS")
    values: list[tuple[int, int]] = list(SETTING.iter_unpack(payload))
    for name, value in values:
        if name == INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
        if not LEAST.get(name, 0) <= value <= MOST.get(name, value):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a setting is out of range")
    return values


def read_increment(payload: bytes) -> int:
    """The increment of a WINDOW_UPDATE. Raises `ProtocolError`."""
    if len(payload) != 4:
        raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a WINDOW_UPDATE has four bytes")
    if increment := int.from_bytes(payload, "big") & MAX_WINDOW:
        return increment
    raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE with a zero increment")


def read_ping(stream: int, payload: bytes) -> bytes:
    """The data of a PING. Raises `ProtocolError`."""
    if stream:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
    if len(payload) != 8:
        raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a PING has eight bytes")
    return payload


def unpadded(flags: int, payload: bytes) -> bytes:
    """The payload without the padding around it (sections 6.1 and 6.2). Raises `ProtocolError`."""
    if not flags & PADDED:
        return payload
    padding = payload[0] if payload else 0
    if padding >= len(payload):
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - padding]


class FrameReader:
    """Cuts what a peer sends into frames: `handle` gets kind, flags, stream and payload of each.

    Header blocks come whole, in one HEADERS: what CONTINUATION adds is joined, padding and priority are left out.
    """

    __slots__ = ("_block", "_handle", "_pending")

    def __init__(self, handle: Callable[[int, int, int, bytes], None]) -> None:
        self._handle = handle
        self._pending = b""
        self._block: tuple[int, int, bytearray] | None = None  # a header block that CONTINUATION goes on with

    def feed(self, data: bytes) -> None:
        """Process bytes. Raises `ProtocolError`, and what `handle` raises; after that, do not call it again."""
        if self._pending:
            data = self._pending + data
        position, end = 0, len(data)
        while end - position >= HEAD.size:
            high, low, kind, flags, stream = HEAD.unpack_from(data, position)
            size = high << 8 | low
            if size > DEFAULT_FRAME_SIZE:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a frame is larger than was agreed")
            stop = position + HEAD.size + size
            if stop > end:
                break
            payload, stream = data[position + HEAD.size : stop], stream & _STREAM
            if kind in _OF_HEADERS or self._block is not None:
                self._headers(kind, flags, stream, payload)
            else:
                self._handle(kind, flags, stream, payload)
            position = stop
        self._pending = data[position:]

    def _headers(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == CONTINUATION:
            self._continued(flags, stream, payload)
        elif self._block is not None:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a header block was broken off")
        elif flags & END_HEADERS:
            self._handle(HEADERS, flags, stream, _block(flags, payload))
        else:
            self._block = stream, flags, bytearray(_block(flags, payload))

    def _continued(self, flags: int, stream: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != stream:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        _, first_flags, block = self._block
        block += payload
        if len(block) > MAX_BLOCK_BYTES or not payload:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "these headers are too large")
        if flags & END_HEADERS:
            self._block = None
            self._handle(HEADERS, first_flags, stream, bytes(block))


def _block(flags: int, payload: bytes) -> bytes:
    """The header block in a HEADERS frame."""
    block = unpadded(flags, payload)
    if not flags & WITH_PRIORITY:
        return block
    if len(block) < _PRIORITY_BYTES:
        raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for the priority in them")
    return block[_PRIORITY_BYTES:]
