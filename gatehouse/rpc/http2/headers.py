"""HPACK (RFC 7541): decodes the headers of requests, and encodes the header blocks of responses.

We ask the peer to use no dynamic table (SETTINGS_HEADER_TABLE_SIZE 0). Once it does, equal blocks mean equal headers,
and since Envoy's calls of one method repeat the same headers, most blocks are found in a cache.
"""

from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import quote

from hpack import Decoder
from hpack.exceptions import HPACKError

from gatehouse.contract.failures import GatehouseError
from gatehouse.rpc.http2.trace_fields import without_trace

MAX_LIST_BYTES = 64 * 1024
"""Of all headers of a request together, as RFC 9113 section 6.5.2 counts them."""

_MOST_KNOWN = 512
_MAX_MESSAGE = 1024
_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
"""Characters that a `grpc-message` holds unencoded (gRPC over HTTP/2, Percent-Encoded)."""

Headers = tuple[tuple[str, str], ...]


class UnreadableHeadersError(GatehouseError):
    """The block is not valid HPACK, or larger than `MAX_LIST_BYTES`: the connection must be closed."""


class RequestHeaders:
    """Decodes the header blocks of one connection, each once and in order."""

    def __init__(self) -> None:
        self._decoder = Decoder(max_header_list_size=MAX_LIST_BYTES)
        self._known: dict[bytes, Headers] = {}

    def read(self, block: bytes) -> Headers:
        """The headers of `block`. What is not UTF-8 becomes `\\ufffd`. Raises `UnreadableHeadersError`.

        Once the table is off, those of the trace that the request belongs to are left out: see `trace_fields`.
        """
        if self._decoder.header_table_size:  # a peer that has not read our settings yet, or ignores them
            return self._decoded(block)
        block = without_trace(block)
        known = self._known.get(block)
        if known is None:
            known = self._decoded(block)
            if not _resizes_table(block):
                self._keep(block, known)
        return known

    def _keep(self, block: bytes, headers: Headers) -> None:
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[block] = headers

    def _decoded(self, block: bytes) -> Headers:
        try:
            found: Iterable[tuple[bytes, bytes]] = self._decoder.decode(block, raw=True)
        except HPACKError as error:
            raise UnreadableHeadersError(type(error).__name__) from None
        return tuple((name.decode("utf-8", "replace"), value.decode("utf-8", "replace")) for name, value in found)


def _resizes_table(block: bytes) -> bool:
    """Such a block means something for those after it (section 6.3)."""
    return block[:1] != b"" and block[0] & 0xE0 == 0x20


def literal(name: str, value: str) -> bytes:
    """A header that neither side remembers (RFC 7541 section 6.2.2)."""
    return b"\x00" + _string(name.encode()) + _string(value.encode())


def _string(text: bytes) -> bytes:
    """Not in Huffman code, after its length: an integer with a prefix of seven bits (sections 5.1 and 5.2)."""
    if len(text) < 0x7F:
        return bytes([len(text)]) + text
    length, rest = bytearray([0x7F]), len(text) - 0x7F
    while rest >= 0x80:
        length.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*length, rest]) + text


ANSWER = b"\x88" + literal("content-type", "application/grpc")
"""How every gRPC answer begins: `:status: 200` is an entry of the static table."""

NOT_GRPC = b"\x08\x03415"
"""The whole answer to what is not gRPC: `:status`, by its name in the static table."""


@lru_cache(64)
def trailers(status: int, message: str = "") -> bytes:
    """How a gRPC answer ends. `message` may be any text; of a long one the beginning is sent, percent-encoded."""
    said = literal("grpc-message", quote(message[:_MAX_MESSAGE], _PLAIN, "utf-8", "replace")) if message else b""
    return literal("grpc-status", str(status)) + said
