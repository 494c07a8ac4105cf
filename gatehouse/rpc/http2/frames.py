"""HTTP/2 frames (RFC 9113, sections 4 and 6): their numbers, and the bytes of those that a server sends."""

from enum import IntEnum
from struct import Struct

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
"""What they may be (section 6.5.2)."""

DEFAULT_WINDOW = 65_535
DEFAULT_FRAME_SIZE = 16_384
MAX_WINDOW = 2**31 - 1
ANY_STREAM = 2**31 - 1
"""In a first GOAWAY: streams that are on their way are still welcome (section 6.8)."""

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
