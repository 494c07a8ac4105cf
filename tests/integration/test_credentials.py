"""Every way to send a key, and every way to send none, through real Envoy, byte by byte."""

import socket

import httpx2 as httpx
import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.running_gateway import RunningGateway
from tests.integration.conftest import FREE, MODEL, PREMIUM
from tests.integration.test_errors import raw

KEY, OTHER = PREMIUM.encode(), FREE.encode()
AUTH, API = b"Authorization: ", b"x-api-key: "
PASSES: dict[str, list[bytes]] = {
    "Bearer": [AUTH + b"Bearer " + KEY],
    "bearer": [AUTH + b"bearer " + KEY],
    "BEARER": [AUTH + b"BEARER " + KEY],
    "header names in any case": [b"AUTHORIZATION: Bearer " + KEY],
    "several spaces": [AUTH + b"Bearer    " + KEY],  # RFC 6750 §2.1: one or more
    "40 KiB of spaces": [AUTH + b"Bearer " + b" " * 40 * 1024 + KEY],
    "folded over two lines": [AUTH + b"Bearer", b" " + KEY],  # RFC 9112 §5.2: a fold may be read as a space
    "space around the value": [b"Authorization:   Bearer " + KEY + b"  \t "],
    "no space before the value": [b"Authorization:Bearer " + KEY],
    "x-api-key": [API + KEY],
    "X-API-KEY": [b"X-API-KEY: " + KEY],
    "both, and they agree": [AUTH + b"Bearer " + KEY, API + KEY],
}
INVALID: dict[str, list[bytes]] = {
    "another key": [AUTH + b"Bearer sk-nobody-has-this-key"],
    "cut off": [AUTH + b"Bearer " + KEY[:-1]],
    "in capitals": [AUTH + b"Bearer " + KEY.upper()],
    "twice": [AUTH + b"Bearer " + KEY] * 2,
    "twice, in both cases": [AUTH + b"Bearer " + KEY, b"authorization: bearer " + KEY],
    "two keys": [AUTH + b"Bearer " + KEY, AUTH + b"Bearer " + OTHER],
    "x-api-key twice": [API + KEY] * 2,
    "joined by a comma": [AUTH + b"Bearer " + KEY + b",Bearer " + KEY],
    "joined by a comma and space": [API + KEY + b", " + KEY],
    "both, and they disagree": [AUTH + b"Bearer " + KEY, API + OTHER],
    "both, and one is empty": [AUTH + b"Bearer " + KEY, API],
    "both, and one is Basic": [AUTH + b"Basic " + KEY, API + KEY],
    "empty": [AUTH],
    "spaces": [AUTH + b"   \t "],
    "x-api-key empty": [API],
    "the scheme alone": [AUTH + b"Bearer"],
    "the scheme and a space": [AUTH + b"Bearer "],
    "no scheme": [AUTH + KEY],
    "Basic": [AUTH + b"Basic " + KEY],
    "a tab after the scheme": [AUTH + b"Bearer\t" + KEY],
    "a scheme where none belongs": [API + b"Bearer " + KEY],
    "words after it": [AUTH + b"Bearer " + KEY + b" and more"],
    "in quotes": [AUTH + b'Bearer "' + KEY + b'"'],
    "513 characters": [AUTH + b"Bearer " + b"k" * 513],
    "40 KiB": [AUTH + b"Bearer " + b"k" * 40 * 1024],
    "a carriage return": [AUTH + b"Bearer " + KEY + b"\rx: y"],
    "101 times": [AUTH + b"Bearer " + KEY] * 101,
    "not UTF-8": [AUTH + b"Bearer \xff\xfe" + KEY],
    "cut UTF-8": [API + KEY + b"\xc3"],
    "UTF-8 that looks alike": [API + KEY.replace(b"k", "к".encode(), 1)],
    "its digest": [API + b"sha256:" + b"0" * 64],
}
MISSING: dict[str, list[bytes]] = {
    "no header": [],
    "Proxy-Authorization": [b"Proxy-Authorization: Bearer " + KEY],
    "a cookie": [b"Cookie: authorization=" + KEY],
    "a name that begins alike": [b"Authorization-: Bearer " + KEY, b"x-api-keys: " + KEY],
    "a name of ours": [b"x-gatehouse-user: root", b"x-gatehouse-key-id: dev", b'x-gatehouse-models: ["*"]'],
}
REFUSED: dict[str, tuple[list[bytes], int, str]] = {
    "NUL": ([AUTH + b"Bearer " + KEY + b"\0"], 400, "bad_request"),
    "NUL before": ([API + b"\0" + KEY], 400, "bad_request"),
    "space before the colon": ([b"Authorization : Bearer " + KEY], 400, "bad_request"),
    "64 KiB": ([AUTH + b"Bearer " + b"k" * 64 * 1024], 431, "headers_too_large"),
    "64 KiB in many headers": ([AUTH + b"Bearer " + KEY] + [b"x: " + b"y" * 8000] * 8, 431, "headers_too_large"),
    "among 100 headers": ([AUTH + b"Bearer " + KEY] + [b"x-%d: y" % i for i in range(100)], 431, "headers_too_large"),
}


def ask(gateway: RunningGateway, lines: list[bytes], body: bytes = b'{"input":"hi"}') -> httpx.Response:
    """One request with exactly these header lines."""
    head = [b"POST /v1/embeddings HTTP/1.1", b"Host: x", b"Connection: close", b"Content-Type: application/json"]
    return raw(gateway, b"\r\n".join([*head, b"Content-Length: %d" % len(body), *lines, b"", body]))


@pytest.mark.parametrize("how", PASSES)
def test_f30_a_key_is_understood(gateway: RunningGateway, how: str) -> None:
    assert ask(gateway, PASSES[how]).status_code == 200


@pytest.mark.parametrize("how", INVALID)
def test_f30_what_is_no_key_is_401_in_one_constant_text(gateway: RunningGateway, backend: FakeVllm, how: str) -> None:
    before = len(backend.requests)
    answer = ask(gateway, INVALID[how])
    wanted = ask(gateway, INVALID["another key"])
    assert (answer.status_code, answer.content) == (401, wanted.content)
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert len(backend.requests) == before


@pytest.mark.parametrize("how", MISSING)
def test_f30_no_key_is_401_missing_api_key(gateway: RunningGateway, how: str) -> None:
    answer = ask(gateway, MISSING[how])
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "missing_api_key")


@pytest.mark.parametrize("how", REFUSED)
def test_f30_what_is_no_http_gets_as_far_as_envoys_codec(gateway: RunningGateway, backend: FakeVllm, how: str) -> None:
    lines, status, code = REFUSED[how]
    before = len(backend.requests)
    answer = ask(gateway, lines)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert len(backend.requests) == before


def test_f32_what_a_client_says_of_itself_changes_neither_who_it_is_nor_its_limits(
    gateway: RunningGateway, backend: FakeVllm
) -> None:
    forged = {
        "x-api-key": FREE,
        "x-gatehouse-user": "root",
        "x-gatehouse-team": "root",
        "X-Gatehouse-Tier": "premium",
        "x-gatehouse-key-id": "dev",
        "x-gatehouse-model": "x",
        "x-gatehouse-key-limits": "{}",
        "x-gatehouse-key-family": "dev",
        "x-gatehouse-client-ip": "10.1.2.3",
        "x-envoy-original-path": "/health",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-max-retries": "9",
        "x-envoy-decorator-operation": "x",
        "x-forwarded-for": "10.1.2.3",
        "x-request-id": "chosen-by-client",
    }
    answer = httpx.post(f"{gateway.url}/v1/embeddings", json={"model": MODEL, "input": "hi"}, headers=forged)
    assert answer.status_code == 200
    assert answer.headers["x-ratelimit-limit-minute"] == "10", "that of the tier free"
    seen = {name.lower(): value for name, value in backend.requests[-1].headers.items()}
    ours = {name: value for name, value in seen.items() if name.startswith(("x-gatehouse", "x-envoy"))}
    key_id = gateway.record(answer.headers["x-request-id"])["key_id"]
    assert ours == {
        "x-gatehouse-user": "fred",
        "x-gatehouse-tier": "free",
        "x-gatehouse-key-id": key_id,
        "x-gatehouse-model": MODEL,
    }
    usage = httpx.get(f"{gateway.url}/v1/usage", headers=forged).json()
    assert (usage["user"], usage["team"], usage["tier"], usage["key_id"]) == ("fred", None, "free", key_id)


def test_f30_a_key_that_never_ends_is_cut_off(gateway: RunningGateway) -> None:
    """Without waiting for its end: what Envoy holds of a request's headers is bounded."""
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nx-api-key: " + b"k" * 70_000)
        assert connection.recv(100).startswith(b"HTTP/1.1 431 ")
