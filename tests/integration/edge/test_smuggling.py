"""No bytes make two requests of what Envoy took for one, or one of two: nothing ambiguous reaches a model server.

RFC 9112 §6.1, §6.3, §7.1, §11.2, and RFC 9113 §8.2, §8.3 say what a server that is careful does.
"""

import json

import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.raw_http import exchanged, http2
from testkit.running_gateway import RunningGateway
from tests.integration.conftest import MODEL, PREMIUM

KEY = f"Authorization: Bearer {PREMIUM}\r\nContent-Type: application/json\r\n".encode()
HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\n" + KEY
BODY = b'{"input":"hi"}'
ARRIVED = b'{"input":"hi","model":"%b"}' % MODEL.encode()
"""It names no model, so the default one is written in."""
HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: x\r\nX-Smuggled: 1\r\n\r\n"
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
TE = b"Transfer-Encoding: chunked\r\n"
CL = b"Content-Length: %d\r\n" % len(BODY)

REFUSED: dict[str, bytes] = {
    "length and chunked, and the length counts": b"Content-Length: 999\r\n" + TE + b"\r\n0\r\n\r\n" + HIDDEN,
    "length and chunked, and the chunks count": b"Content-Length: 4\r\n" + TE + b"\r\n%x\r\n%b" % (len(HIDDEN), HIDDEN),
    "chunked and length": TE + CL + b"\r\n" + CHUNKED,
    "an unknown coding": b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKED,
    "an unknown coding and a length": b"Transfer-Encoding: xchunked\r\n" + CL + b"\r\n" + BODY,
    "a coding after chunked": b"Transfer-Encoding: chunked, identity\r\n\r\n" + CHUNKED,
    "a coding before chunked": b"Transfer-Encoding: identity, chunked\r\n\r\n" + CHUNKED,
    "chunked twice": b"Transfer-Encoding: chunked, chunked\r\n\r\n" + CHUNKED,
    "two lines of codings": TE + b"Transfer-Encoding: identity\r\n\r\n" + CHUNKED,
    "two lines of chunked": TE + TE + b"\r\n" + CHUNKED,
    "a control character in the coding": b"Transfer-Encoding: \x0bchunked\r\n\r\n" + CHUNKED,
    "quotes around the coding": b'Transfer-Encoding: "chunked"\r\n\r\n' + CHUNKED,
    "a space before the colon of the coding": b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKED,
    "a space before the colon of the length": b"Content-Length : 14\r\n\r\n" + BODY,
    "an underscore in the coding's name": b"Transfer_Encoding: chunked\r\n" + CL + b"\r\n" + BODY,
    "two lengths that differ": CL + b"Content-Length: 0\r\n\r\n" + BODY,
    "a list of lengths that differ": b"Content-Length: 14, 0\r\n\r\n" + BODY,
    "a length with a sign": b"Content-Length: +14\r\n\r\n" + BODY,
    "a length below nothing": b"Content-Length: -1\r\n\r\n" + BODY,
    "a length in hexadecimal": b"Content-Length: 0xe\r\n\r\n" + BODY,
    "a length with words": b"Content-Length: 14 bytes\r\n\r\n" + BODY,
    "an empty length": b"Content-Length: \r\n\r\n" + BODY,
    "a length beyond 64 bits": b"Content-Length: 99999999999999999999\r\n\r\n" + BODY,
    "a line without a colon": b"nonsense\r\n" + CL + b"\r\n" + BODY,
    "a line without a name": b": x\r\n" + CL + b"\r\n" + BODY,
    "NUL in a value": b"x: a\0b\r\n" + CL + b"\r\n" + BODY,
    "NUL in a name": b"x\0: a\r\n" + CL + b"\r\n" + BODY,
    "a chunk size with a sign": TE + b"\r\n-1\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a chunk size with 0x": TE + b"\r\n0xe\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a chunk size beyond 64 bits": TE + b"\r\n1000000000000000e\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a chunk that is longer than it says": TE + b"\r\n1\r\n" + BODY + b"\r\n0\r\n\r\n",
    "an empty chunk size": TE + b"\r\n\r\n" + BODY + b"\r\n0\r\n\r\n",
}
LINES: dict[str, bytes] = {
    "HTTP/1.0": b"POST /v1/embeddings HTTP/1.0\r\nHost: x\r\n" + KEY + CL + b"\r\n" + BODY,
    "HTTP/1.0, chunked": b"POST /v1/embeddings HTTP/1.0\r\nHost: x\r\n" + KEY + TE + b"\r\n" + CHUNKED,
    "HTTP/0.9": b"POST /v1/embeddings\r\n\r\n",
    "HTTP/2.0": b"POST /v1/embeddings HTTP/2.0\r\nHost: x\r\n" + KEY + CL + b"\r\n" + BODY,
    "a space in the path": b"POST /v1/embeddings x HTTP/1.1\r\nHost: x\r\n" + KEY + CL + b"\r\n" + BODY,
    "a carriage return in the path": b"POST /v1/embeddings\rx HTTP/1.1\r\nHost: x\r\n" + KEY + CL + b"\r\n" + BODY,
    "no host": b"POST /v1/embeddings HTTP/1.1\r\n" + KEY + CL + b"\r\n" + BODY,
    "two hosts": b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nHost: y\r\n" + KEY + CL + b"\r\n" + BODY,
    "a host with a slash": b"POST /v1/embeddings HTTP/1.1\r\nHost: x/smuggled?\r\n" + KEY + CL + b"\r\n" + BODY,
    "a fold before any header": b"POST /v1/embeddings HTTP/1.1\r\n x: y\r\nHost: x\r\n" + KEY + CL + b"\r\n" + BODY,
}
ONE: dict[str, bytes] = {
    "a length": CL + b"\r\n" + BODY,
    "chunks": TE + b"\r\n" + CHUNKED,
    "chunks in capitals": b"Transfer-Encoding: CHUNKED\r\n\r\n" + CHUNKED,
    "a tab before the coding": b"Transfer-Encoding:\tchunked\r\n\r\n" + CHUNKED,
    "a folded coding": b"Transfer-Encoding:\r\n chunked\r\n\r\n" + CHUNKED,
    "an extension of a chunk": TE + b"\r\ne;x=y\r\n" + BODY + b"\r\n0\r\n\r\n",
    "leading zeros": b"Content-Length: 0014\r\n\r\n" + BODY,
    "trailers": TE + b"\r\ne\r\n" + BODY + b"\r\n0\r\nX-Gatehouse-User: root\r\nX-Smuggled: 1\r\n\r\n",
    "what takes our headers for hop-by-hop": b"Connection: x-gatehouse-user, x-request-id\r\n" + CL + b"\r\n" + BODY,
    "what takes the length for hop-by-hop": b"Connection: content-length\r\n" + CL + b"\r\n" + BODY,
}
"""One request each, if it is one at all."""


def reached(backend: FakeVllm, since: int) -> list[bytes]:
    """The bodies of what the model server got; nothing hidden is among it."""
    got = backend.requests[since:]
    for request in got:
        assert (request.method, request.path) == ("POST", "/v1/embeddings")
        assert "x-smuggled" not in request.headers
        assert request.headers["x-gatehouse-user"] == "dev-team"
    return [request.body for request in got]


@pytest.mark.parametrize("how", REFUSED)
def test_an_ambiguous_length_is_refused(gateway: RunningGateway, backend: FakeVllm, how: str) -> None:
    before = len(backend.requests)
    [answer] = exchanged(gateway.url, HEAD + REFUSED[how] + HIDDEN)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] in ("bad_request", "invalid_json")
    assert reached(backend, before) == []


@pytest.mark.parametrize("how", LINES)
def test_an_ambiguous_request_line_or_host_is_refused(gateway: RunningGateway, backend: FakeVllm, how: str) -> None:
    before = len(backend.requests)
    for answer in exchanged(gateway.url, LINES[how]):
        assert answer.status_code in (400, 426), answer.text
        assert answer.json()["error"]["code"] in ("bad_request", "upgrade_required")
    assert reached(backend, before) == []


@pytest.mark.parametrize("how", ONE)
def test_what_is_one_request_is_one_for_the_model_server_too(
    gateway: RunningGateway, backend: FakeVllm, how: str
) -> None:
    """And what follows it is another one, which Envoy answers itself."""
    before = len(backend.requests)
    found = [answer.status_code for answer in exchanged(gateway.url, HEAD + ONE[how] + HIDDEN, wanted=2)]
    bodies = reached(backend, before)
    assert (found, bodies) in (([200, 404], [ARRIVED]), ([400], [])), "one, or none"


def test_what_asks_to_be_rid_of_its_key_is_rid_of_it(gateway: RunningGateway, backend: FakeVllm) -> None:
    """RFC 9110 §7.6.1: what Connection names goes no further than Envoy, and that is before anybody looks at it."""
    before = len(backend.requests)
    [answer] = exchanged(gateway.url, HEAD + b"Connection: authorization\r\n" + CL + b"\r\n" + BODY)
    assert answer.status_code == 401
    assert reached(backend, before) == []


@pytest.mark.parametrize(
    "sent",
    [
        (HEAD + CL + b"\r\n").replace(b"\r\n", b"\n") + BODY,
        HEAD.replace(b"POST /", b"POST  /") + CL + b"\r\n" + BODY,
        b"\r\n" + HEAD + CL + b"\r\n" + BODY,
    ],
    ids=["bare line feeds", "two spaces", "an empty line before"],
)
def test_what_may_be_forgiven_is_put_right(gateway: RunningGateway, backend: FakeVllm, sent: bytes) -> None:
    """RFC 9112 §2.2 and §3 allow it; the model server gets a request of Envoy's making."""
    before = len(backend.requests)
    assert [answer.status_code for answer in exchanged(gateway.url, sent)] == [200]
    assert reached(backend, before) == [ARRIVED]


def test_who_asks_first_is_told_to_go_on(gateway: RunningGateway, backend: FakeVllm) -> None:
    before = len(backend.requests)
    found = exchanged(gateway.url, HEAD + b"Expect: 100-continue\r\n" + CL + b"\r\n" + BODY + HIDDEN, wanted=3)
    assert [answer.status_code for answer in found] == [100, 200, 404]
    assert reached(backend, before) == [ARRIVED]


def test_requests_in_a_row_are_answered_in_their_order(gateway: RunningGateway, backend: FakeVllm) -> None:
    before = len(backend.requests)
    bodies = [json.dumps({"model": MODEL, "input": f"number {number}"}).encode() for number in range(5)]
    sent = b"".join(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body for body in bodies)
    found = exchanged(gateway.url, sent + b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", wanted=6)
    assert [answer.status_code for answer in found] == [200] * 5 + [404]
    assert reached(backend, before) == bodies


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "HTTP/2.0", "TLS/1.0"])
def test_no_other_protocol_is_switched_to(gateway: RunningGateway, backend: FakeVllm, protocol: str) -> None:
    before = len(backend.requests)
    wish = f"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {protocol}\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
    [answer] = exchanged(gateway.url, HEAD + wish.encode() + CL + b"\r\n" + BODY)
    refusals = ("bad_request", "http_required")
    assert answer.status_code == 200 or answer.json()["error"]["code"] in refusals, answer.text
    assert reached(backend, before) in ([], [ARRIVED])
    assert [request for request in backend.requests[before:] if "upgrade" in request.headers] == []


def test_an_absolute_target_is_read_like_its_path(gateway: RunningGateway, backend: FakeVllm) -> None:
    before = len(backend.requests)
    head = HEAD.replace(b"/v1/embeddings", b"http://elsewhere/v1/embeddings")
    [answer] = exchanged(gateway.url, head + CL + b"\r\n" + BODY)
    assert answer.status_code == 200
    assert reached(backend, before) == [ARRIVED]


PSEUDO = {":method": "POST", ":scheme": "http", ":authority": "x", ":path": "/v1/embeddings"}
FIELDS = [("authorization", f"Bearer {PREMIUM}"), ("content-type", "application/json")]
TRICKS: dict[str, list[tuple[str, str]]] = {
    "a transfer coding": [*PSEUDO.items(), *FIELDS, ("transfer-encoding", "chunked")],
    "a connection header": [*PSEUDO.items(), *FIELDS, ("connection", "x-gatehouse-user")],
    "an upgrade": [*PSEUDO.items(), *FIELDS, ("upgrade", "h2c")],
    "too short a length": [*PSEUDO.items(), *FIELDS, ("content-length", "3")],
    "too long a length": [*PSEUDO.items(), *FIELDS, ("content-length", "99")],
    "two lengths": [*PSEUDO.items(), *FIELDS, ("content-length", "14"), ("content-length", "0")],
    "a pseudo-header after the others": [*list(PSEUDO.items())[:3], *FIELDS, (":path", "/v1/embeddings")],
    "two paths": [*PSEUDO.items(), (":path", "/smuggled"), *FIELDS],
    "two methods": [(":method", "GET"), *PSEUDO.items(), *FIELDS],
    "an unknown pseudo-header": [*PSEUDO.items(), (":smuggled", "1"), *FIELDS],
    "no method": [*list(PSEUDO.items())[1:], *FIELDS],
    "no path": [*list(PSEUDO.items())[:3], *FIELDS],
    "an empty path": [*(PSEUDO | {":path": ""}).items(), *FIELDS],
    "a path that is none": [*(PSEUDO | {":path": "v1/embeddings"}).items(), *FIELDS],
    "a line in the path": [
        *(PSEUDO | {":path": "/v1/embeddings HTTP/1.1\r\nx-smuggled: 1\r\n\r\n"}).items(),
        *FIELDS,
    ],
    "a space in the path": [*(PSEUDO | {":path": "/v1/embeddings x"}).items(), *FIELDS],
    "a line in the method": [*(PSEUDO | {":method": "POST /smuggled HTTP/1.1\r\nx: y"}).items(), *FIELDS],
    "a line in the host": [*(PSEUDO | {":authority": "x\r\nx-smuggled: 1"}).items(), *FIELDS],
    "a path in the host": [*(PSEUDO | {":authority": "x/smuggled"}).items(), *FIELDS],
    "a line in a value": [*PSEUDO.items(), *FIELDS, ("x", "a\r\nx-smuggled: 1")],
    "a newline in a value": [*PSEUDO.items(), *FIELDS, ("x", "a\nx-smuggled: 1")],
    "NUL in a value": [*PSEUDO.items(), *FIELDS, ("x", "a\0b")],
    "a line in a name": [*PSEUDO.items(), *FIELDS, ("x: 1\r\nx-smuggled", "1")],
    "a colon in a name": [*PSEUDO.items(), *FIELDS, ("x:y", "1")],
    "a space in a name": [*PSEUDO.items(), *FIELDS, ("x ", "1")],
    "capitals in a name": [*PSEUDO.items(), *FIELDS, ("X-Smuggled", "1")],
    "an empty name": [*PSEUDO.items(), *FIELDS, ("", "1")],
    "an extended CONNECT": [
        *(PSEUDO | {":method": "CONNECT", ":protocol": "websocket"}).items(),
        *FIELDS,
    ],
    "a CONNECT": [(":method", "CONNECT"), (":authority", "x:80"), *FIELDS],
}


@pytest.mark.parametrize("how", TRICKS)
def test_tricks_of_http_2_end_at_the_gateway(gateway: RunningGateway, backend: FakeVllm, how: str) -> None:
    before = len(backend.requests)
    outcome = http2(gateway.url, TRICKS[how], BODY)
    assert outcome.over or (outcome.status or 0) in range(400, 500), outcome
    assert reached(backend, before) == []


def test_a_proper_stream_of_http_2_is_answered(gateway: RunningGateway, backend: FakeVllm) -> None:
    before = len(backend.requests)
    outcome = http2(gateway.url, [*PSEUDO.items(), *FIELDS, ("content-length", str(len(BODY)))], BODY)
    assert outcome.status == 200
    assert json.loads(outcome.body)["model"] == MODEL
    assert reached(backend, before) == [ARRIVED]
