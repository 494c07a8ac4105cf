"""The framing of gRPC messages: a byte that tells whether the message is compressed, four with its length, the message.

gRPC over HTTP/2 (PROTOCOL-HTTP2.md), "Length-Prefixed-Message". Compressed messages are neither sent nor read.
"""

PREFIX = 5


def framed(message: bytes) -> bytes:
    """`message` with its prefix."""
    return b"\0" + len(message).to_bytes(PREFIX - 1, "big") + message


def size(begun: bytes | bytearray) -> int:
    """The length of the message that begins like this, without the prefix, as far as it is known yet."""
    return int.from_bytes(begun[1:PREFIX], "big") if len(begun) >= PREFIX else 0


def is_one(text: bytes | bytearray) -> bool:
    """Whether `text` is one whole message, prefix included."""
    return len(text) >= PREFIX and len(text) == PREFIX + size(text)


def is_compressed(begun: bytes | bytearray) -> bool:
    """Whether the message that begins like this is compressed."""
    return begun[:1] not in (b"", b"\0")
