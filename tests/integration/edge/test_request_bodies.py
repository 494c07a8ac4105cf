"""Bodies that are no JSON, or more than one, or too much: what Envoy reads in them is what the model server would."""

import contextlib
import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.raw_http import connected, exchanged
from testkit.running_gateway import RunningGateway
from tests.integration.conftest import LIMITED, MODEL, PREMIUM

EMBEDDINGS = "/v1/embeddings"
CANARY = "canary-in-a-body-4711"
MIB = 1024 * 1024

NO_JSON: dict[str, bytes] = {
    "nothing": b"",
    "a space": b" ",
    "words": CANARY.encode(),
    "cut off": f'{{"model":"tiny","input":"{CANARY}'.encode(),
    "cut in a character": '{"model":"tiny","input":"é"}'.encode()[:-3],
    "NaN": b'{"model":"tiny","input":"x","temperature":NaN}',
    "Infinity": b'{"model":"tiny","input":"x","temperature":-Infinity}',
    "a number too large": b'{"model":"tiny","input":"x","temperature":1e999}',
    "single quotes": b"{'model':'tiny','input':'x'}",
    "a comma too many": b'{"model":"tiny","input":"x",}',
    "a comment": b'{"model":"tiny",/* */"input":"x"}',
    "two documents": b'{"model":"tiny","input":"x"}{"model":"tiny"}',
    "words after it": b'{"model":"tiny","input":"x"} and more',
    "no UTF-8": b'{"model":"tiny","input":"\xff\xfe"}',
    "UTF-16": '{"model":"tiny","input":"x"}'.encode("utf-16"),
    "compressed": gzip.compress(b'{"model":"tiny","input":"x"}'),
    "a control character": b'{"model":"tiny","input":"a\x01b"}',
    "a lone escape": b'{"model":"tiny","input":"\\x41"}',
}
STRANGE: dict[str, bytes] = {
    "NUL after it": b'{"model":"tiny","input":"x"}\0',
    "10,000 levels deep": b'{"model":"tiny","input":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "10,000 levels, cut off": b'{"model":"tiny","input":' + b"[" * 10_000,
    "10,000 objects deep": b'{"model":"tiny","a":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
    "a byte order mark": b'\xef\xbb\xbf{"model":"tiny","input":"x"}',
    "the model twice, the last is allowed": f'{{"model":"{MODEL}","model":"tiny","input":"x"}}'.encode(),
    "the model twice, the first is allowed": f'{{"model":"tiny","model":"{MODEL}","input":"x"}}'.encode(),
    "the model again by an escape": f'{{"model":"tiny","mod\\u0065l":"{MODEL}","input":"x"}}'.encode(),
    "the model first by an escape": f'{{"mod\\u0065l":"tiny","model":"{MODEL}","input":"x"}}'.encode(),
    "the model in capitals": f'{{"model":"tiny","MODEL":"{MODEL}","input":"x"}}'.encode(),
    "the model within": f'{{"a":{{"model":"{MODEL}"}},"model":"tiny","input":"x"}}'.encode(),
    "a model with NUL": b'{"model":"tiny\\u0000","input":"x"}',
    "a model that is a list": f'{{"model":["tiny","{MODEL}"],"input":"x"}}'.encode(),
    "a model that is an object": b'{"model":{"name":"tiny"},"input":"x"}',
    "a model that is a number": b'{"model":1,"input":"x"}',
    "a model that is true": b'{"model":true,"input":"x"}',
    "a model that is null": b'{"model":null,"input":"x"}',
    "a model that is empty": b'{"model":"","input":"x"}',
    "a model that is half a character": b'{"model":"tiny\\ud800","input":"x"}',
    "a model of 100 KB": b'{"model":"' + b"t" * 100_000 + b'","input":"x"}',
    "a list": b'[{"model":"tiny"}]',
    "a text": b'"tiny"',
    "null": b"null",
    "an empty object": b"{}",
    "50,000 names": json.dumps({"model": "tiny", "input": "x", **{f"k{i}": i for i in range(50_000)}}).encode(),
    "a number of 50,000 digits": b'{"model":"tiny","input":"x","seed":' + b"9" * 50_000 + b"}",
}


def post(gateway: RunningGateway, body: bytes, key: str = PREMIUM, **headers: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json", **headers}
    return httpx.post(gateway.url + EMBEDDINGS, content=body, headers=headers, timeout=20)


@pytest.fixture(scope="module", autouse=True)
def nothing_dies_and_no_body_is_logged(gateway: RunningGateway) -> Iterator[None]:
    before = gateway.children()
    before.pop("prefork", None)  # it ends by itself
    yield
    assert before.items() <= gateway.children().items(), "a process died of a body"
    logs = [path for path in Path(gateway.directory).rglob("*") if path.is_file() and path.name != "gatehouse.yaml"]
    assert [path for path in logs if CANARY.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("how", NO_JSON)
def test_f28_what_is_no_json_is_400(gateway: RunningGateway, backend: FakeVllm, how: str) -> None:
    before = len(backend.requests)
    answer = post(gateway, NO_JSON[how])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    assert len(backend.requests) == before


@pytest.mark.parametrize("how", STRANGE)
def test_f28_nobody_gets_another_model_by_it_than_theirs(gateway: RunningGateway, backend: FakeVllm, how: str) -> None:
    """The key may use `tiny*` alone: what the model server reads in the body is what was decided upon."""
    before = len(backend.requests)
    answer = post(gateway, STRANGE[how], key=LIMITED)
    assert answer.status_code in (200, 400, 403, 404), answer.text
    for request in backend.requests[before:]:
        assert request.body == STRANGE[how], "byte for byte"
        assert model_in(request.body).startswith("tiny")


def model_in(body: bytes) -> str:
    """As Python reads it, which a model server is written in; "tiny" where it would refuse the body."""
    try:
        return str(json.loads(body)["model"])
    except (ValueError, RecursionError):
        return "tiny"


@pytest.mark.parametrize("how", STRANGE)
def test_f28_what_may_be_anything_ends_in_an_answer(gateway: RunningGateway, how: str) -> None:
    answer = post(gateway, STRANGE[how])
    assert answer.status_code in (200, 400, 403, 404, 422), answer.text
    assert answer.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "a/b" * 99],
)
def test_f28_json_under_another_name_is_400(gateway: RunningGateway, backend: FakeVllm, content_type: str) -> None:
    before = len(backend.requests)
    answer = post(gateway, f'{{"model":"{MODEL}"}}'.encode(), key=LIMITED, **{"content-type": content_type})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    assert len(backend.requests) == before


def test_f28_a_body_that_is_cut_off_by_its_sender_leaves_nothing_behind(
    gateway: RunningGateway, backend: FakeVllm
) -> None:
    before = len(backend.requests)
    head = f"POST {EMBEDDINGS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {PREMIUM}\r\nContent-Length: 999\r\n\r\n"
    for _ in range(20):
        with connected(gateway.url) as connection:
            connection.sendall(head.encode() + b'{"model":"tiny",')
    assert post(gateway, b'{"model":"tiny","input":"x"}').status_code == 200
    assert len(backend.requests) == before + 1


def checks(gateway: RunningGateway) -> float:
    """How often authz_service was asked."""
    lines = [line for line in gateway.metrics().splitlines() if line.startswith("api_auth_decisions_total{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


@pytest.mark.parametrize("key", [PREMIUM, "sk-nobody-has-this-key"])
def test_f29_a_length_beyond_the_limit_is_413_and_nobody_is_asked(
    gateway: RunningGateway, backend: FakeVllm, key: str
) -> None:
    before, asked = len(backend.requests), checks(gateway)
    head = f"POST {EMBEDDINGS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {MIB + 1}\r\n\r\n"
    [answer] = exchanged(gateway.url, head.encode())
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert checks(gateway) == asked
    assert len(backend.requests) == before


def test_f29_a_body_of_exactly_the_limit_passes(gateway: RunningGateway, backend: FakeVllm) -> None:
    head, tail = b'{"model":"tiny","input":"', b'"}'
    body = head + b"x" * (MIB - len(head) - len(tail)) + tail
    assert len(body) == MIB
    assert post(gateway, body).status_code == 200
    assert backend.requests[-1].body == body
    assert post(gateway, body + b" ").status_code == 413


def pieces(size: int) -> Iterator[bytes]:
    yield from (b" " * 16_384 for _ in range(size // 16_384))


@pytest.mark.parametrize("size", [MIB + 16_384, 8 * MIB])
def test_f29_chunks_beyond_the_limit_are_413_as_they_pass_it(
    gateway: RunningGateway, backend: FakeVllm, size: int
) -> None:
    before = len(backend.requests)
    headers = {"authorization": f"Bearer {PREMIUM}", "content-type": "application/json"}
    answer = httpx.post(gateway.url + EMBEDDINGS, content=pieces(size), headers=headers, timeout=20)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert len(backend.requests) == before


def test_f29_chunks_of_a_stranger_are_not_waited_for(gateway: RunningGateway) -> None:
    head = f"POST {EMBEDDINGS} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4000\r\n"
    [answer] = exchanged(gateway.url, head.encode())  # and not one byte of the chunk
    assert answer.status_code == 401


def rss_mib(gateway: RunningGateway) -> int:
    """What Envoy holds in memory."""
    pages = int(Path(f"/proc/{gateway.children()['envoy']}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // MIB


def test_f29_many_bodies_at_once_are_held_up_to_their_limit_and_no_further(gateway: RunningGateway) -> None:
    """30 bodies that never end, each of which would be as large as it is let."""
    before = rss_mib(gateway)
    head = f"POST {EMBEDDINGS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {PREMIUM}\r\n"
    head += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with contextlib.ExitStack() as open_ones:
        for _ in range(30):
            connection = open_ones.enter_context(connected(gateway.url))
            with contextlib.suppress(OSError):  # closed once it is over the limit
                connection.sendall(head.encode())
                for piece in pieces(4 * MIB):
                    connection.sendall(b"4000\r\n" + piece + b"\r\n")
        assert rss_mib(gateway) - before < 30 * 2 + 40
        assert post(gateway, b'{"model":"tiny","input":"x"}').status_code == 200
