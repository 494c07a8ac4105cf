"""Header blocks are read once, though each carries a trace of its own."""

import hpack
import pytest
from hpack import HeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.rpc.http2.headers import RequestHeaders
from gatehouse.rpc.http2.trace_fields import TRACEPARENT, TRACESTATE, without_trace

PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
BEFORE = [(b":method", b"POST"), (b":path", b"/envoy.service.auth.v3.Authorization/Check"), (b"te", b"trailers")]
AFTER = [(b"x-envoy-internal", b"true"), (b"x-forwarded-for", b"192.0.2.2")]
NO_TABLE = b"\x20"
"""Begins a block: the dynamic table has a size of 0 from here on (RFC 7541 §6.3)."""

TRACE = [(b"traceparent", PARENT), (b"tracestate", b"")]


def plain(name: bytes, value: bytes) -> bytes:
    """A literal without Huffman code, as `headers.literal` writes it."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def block(fields: list[tuple[bytes, bytes]]) -> bytes:
    """As Envoy writes it: literals not indexed, in Huffman code."""
    known = [field for field in fields if field[0].startswith(b":") or field[0] == b"te"]
    rest = [field for field in fields if field not in known]
    written = hpack.Encoder().encode(known, huffman=True)
    for name, value in rest:
        written += b"\x00" + _huffman(name) + _huffman(value)
    return written


def _huffman(text: bytes) -> bytes:
    encoded = hpack.Encoder().huffman_coder.encode(text)
    length = hpack.hpack.encode_integer(len(encoded), 7)
    length[0] |= 0x80
    return bytes(length) + encoded


def decoded(data: bytes) -> list[HeaderTuple]:
    return list(hpack.Decoder().decode(data, raw=True))


def test_the_names_are_known_as_they_are_coded() -> None:
    for name, begin in ((b"traceparent", TRACEPARENT), (b"tracestate", TRACESTATE)):
        assert begin == b"\x00" + _huffman(name)


@pytest.mark.parametrize("trace", [TRACE, TRACE[:1], [(b"traceparent", PARENT), (b"tracestate", b"a=b," * 400)]])
def test_a_trace_is_taken_out_and_nothing_else(trace: list[tuple[bytes, bytes]]) -> None:
    assert decoded(block(BEFORE + trace + AFTER)) == BEFORE + trace + AFTER
    assert without_trace(block(BEFORE + trace + AFTER)) == block(BEFORE) + block(AFTER)


def test_blocks_that_differ_by_their_trace_alone_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = RequestHeaders()
    headers.read(NO_TABLE)
    first = headers.read(block(BEFORE + TRACE + AFTER))
    monkeypatch.setattr(headers, "_decoded", None)
    again = [(b"traceparent", PARENT[::-1]), (b"tracestate", b"vendor=1")]
    assert headers.read(block(BEFORE + again + AFTER)) is first
    assert [name for name, _ in first if name.startswith("trace")] == []


def test_a_value_that_looks_like_the_name_is_left_alone() -> None:
    """A client chooses its `x-forwarded-for`; literals need not be in Huffman code."""
    forged = block(BEFORE) + plain(b"x-forwarded-for", b"1" + TRACEPARENT + b"\x05zzzzz") + block(AFTER[:1])
    assert without_trace(forged) == forged
    assert dict(decoded(forged))[b"x-forwarded-for"].startswith(b"1\x00\x88")


@pytest.mark.parametrize("end", [1, 5, 20, 26])
def test_a_block_that_is_cut_short_is_left_for_the_decoder_to_refuse(end: int) -> None:
    whole = block(BEFORE) + block(TRACE[:1])
    cut = whole[: len(block(BEFORE)) + len(TRACEPARENT) + end]
    assert without_trace(cut) == cut


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_no_bytes_make_it_fail(before: bytes, after: bytes) -> None:
    data = before + TRACEPARENT + after
    assert without_trace(data) == data or len(without_trace(data)) < len(data)


_TEXT = st.binary(max_size=200).filter(lambda text: TRACEPARENT not in text)


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=150), _TEXT), max_size=5), _TEXT)
def test_whatever_stands_before_a_trace_stays(fields: list[tuple[bytes, bytes]], parent: bytes) -> None:
    others = [(name, value) for name, value in fields if name != b"te" and not name.startswith(b":")]
    written = b"".join(b"\x10" + _huffman(name) + _huffman(value) for name, value in others)
    assert without_trace(written + block([(b"traceparent", parent)]) + block(AFTER)) == written + block(AFTER)
