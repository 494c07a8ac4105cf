"""Removes the trace fields from header blocks.

With tracing on, each of Envoy's calls has its own `traceparent`, which is not used here; without it the blocks of one
method are equal again, and need no decoding. Works on blocks that use no dynamic table.
"""

from functools import lru_cache

TRACEPARENT = b"\x00\x88\x4d\x83\x21\x6b\x1d\x85\xa9\x3f"
TRACESTATE = b"\x00\x87\x4d\x83\x21\x50\x91\xa4\xbf"
"""How the two begin as Envoy sends them, one after the other: literal, not indexed, with a new name in Huffman code
(RFC 7541 §6.2.2)."""

_MAX_INTEGER_BYTES = 4


def without_trace(block: bytes) -> bytes:
    """`block` without its fields `traceparent` and `tracestate`; a block that can't be parsed is returned as it is."""
    begin = block.find(TRACEPARENT)
    if begin < 0 or not _whole_fields(block[:begin]):
        return block
    try:
        end = _field_end(block, begin)
        if block.startswith(TRACESTATE, end):
            end = _field_end(block, end)
    except IndexError:
        return block
    return block[:begin] + block[end:] if end <= len(block) else block


@lru_cache(64)
def _whole_fields(block: bytes) -> bool:
    """Whether a field ends where `block` does: what comes next is one, and no text of a client that looks like it."""
    at = 0
    try:
        while at < len(block):
            at = _field_end(block, at)
    except IndexError:
        return False
    return at == len(block)


def _field_end(block: bytes, at: int) -> int:
    """Where the representation that begins `at` ends (RFC 7541 §6). Raises `IndexError`."""
    first = block[at]
    if first >= 0x80:
        return _integer(block, at, 0x7F)[1]
    if 0x20 <= first < 0x40:
        return _integer(block, at, 0x1F)[1]
    name, at = _integer(block, at, 0x3F if first >= 0x40 else 0x0F)
    if name == 0:
        at = _string_end(block, at)
    return _string_end(block, at)


def _string_end(block: bytes, at: int) -> int:
    length, at = _integer(block, at, 0x7F)
    return at + length


def _integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """The integer that begins `at` in the bits of `mask`, and where it ends (RFC 7541 §5.1). Raises `IndexError`."""
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    for shift in range(0, 7 * _MAX_INTEGER_BYTES, 7):
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise IndexError("no integer of a header block is so large")
