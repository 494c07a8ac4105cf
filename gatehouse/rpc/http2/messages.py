"""gRPC messages as they are sent: each behind a byte that says whether it is compressed, and four with its length.

gRPC over HTTP/2 (PROTOCOL-HTTP2.md), "Length-Prefixed-Message". Compressed messages are neither sent nor read.
"""

PREFIX = 5


def framed(message: bytes) -> bytes:
    """`message` behind its prefix."""
    return b"\0" + len(message).to_bytes(PREFIX - 1, "big") + message


def size(begun: bytes | bytearray) -> int:
    """The length of the message that begins so, without the prefix, as far as it is said yet."""
    return int.from_bytes(begun[1:PREFIX], "big") if len(begun) >= PREFIX else 0


def is_one(text: bytes | bytearray) -> bool:
    """Whether `text` is one whole message, prefix included."""
    return len(text) >= PREFIX and len(text) == PREFIX + size(text)


def is_compressed(begun: bytes | bytearray) -> bool:
    """Whether the message that begins so is compressed."""
    return begun[:1] not in (b"", b"\0")
