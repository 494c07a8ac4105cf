"""`Expect: 100-continue`: the body is asked for once the caller is known, and all else is as without it."""

import json
import socket
import time
from contextlib import suppress
from typing import Any

import httpx2 as httpx
import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.fakes.script import Script
from testkit.raw_http import connected, http2
from testkit.running_gateway import RunningGateway
from testkit.waiting import until
from tests.integration.conftest import ELSEWHERE, FREE, LIMITED, MODEL, PREMIUM, STANDARD

CHAT = "/v1/chat/completions"
BODY = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "a b c"}]}).encode()
CONTINUE = b"HTTP/1.1 100 Continue\r\n"
QUIET_S = 0.4
"""Long enough for a 100 that must not come."""


def head(key: str | None = PREMIUM, path: str = CHAT, length: int = len(BODY), **headers: str) -> bytes:
    said = {
        "Host": "x",
        "Content-Type": "application/json",
        "Content-Length": str(length),
        "Expect": "100-continue",
        **({"Authorization": f"Bearer {key}"} if key else {}),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in said.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode()


def heard(connection: socket.socket, patience_s: float = QUIET_S) -> bytes:
    """What comes until nothing comes any more."""
    received = b""
    connection.settimeout(patience_s)
    with suppress(TimeoutError, ConnectionError):
        while data := connection.recv(65536):
            received += data
    return received


def until_answered(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """An answer that has a length."""
    connection.settimeout(10)
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    lines, _, body = received.partition(b"\r\n\r\n")
    status, *fields = lines.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in fields)}
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return int(status.split()[1]), headers, body


def asked(gateway: RunningGateway, request: bytes, body: bytes = BODY) -> tuple[int, dict[str, str], Any]:
    """The answer to a request whose body waits for its 100."""
    with connected(gateway.url) as connection:
        connection.sendall(request)
        connection.settimeout(5)
        said = connection.recv(65536)
        assert said.startswith(CONTINUE), said
        assert said.endswith(b"\r\n\r\n")
        connection.sendall(body)
        status, headers, answer = until_answered(connection)
        return status, headers, json.loads(answer)


def refused(gateway: RunningGateway, request: bytes) -> tuple[int, str]:
    """Status and code of an answer that comes without the body having been asked for."""
    with connected(gateway.url) as connection:
        connection.sendall(request)
        status, _, body = until_answered(connection)
        return status, json.loads(body)["error"]["code"]


REFUSED = {
    "a wrong key": (head(key="sk-nobody-has-this-key"), 401, "invalid_api_key"),
    "no key": (head(key=None), 401, "missing_api_key"),
    "a key from elsewhere": (head(key=ELSEWHERE), 401, "ip_not_authorized"),
    "an address that is claimed": (head(key=ELSEWHERE, X_Forwarded_For="10.1.2.3"), 401, "ip_not_authorized"),
    "a credential that is slipped in": (
        head(key=None, x_gatehouse_authorization=f"Bearer {PREMIUM}"),
        401,
        "missing_api_key",
    ),
    "an unknown path": (head(path="/v1/nothing"), 404, "not_found"),
    "a body that is too large": (head(length=64 * 2**20), 413, "request_too_large"),
    "an encoded body": (head(Content_Encoding="gzip"), 415, "encoded_body"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_who_is_refused_is_never_asked_for_the_body(gateway: RunningGateway, backend: FakeVllm, why: str) -> None:
    before = len(backend.requests)
    request, status, code = REFUSED[why]
    assert refused(gateway, request) == (status, code)
    assert len(backend.requests) == before


def test_a_refusal_is_one_record(gateway: RunningGateway) -> None:
    with connected(gateway.url) as connection:
        connection.sendall(head(key="sk-nobody-has-this-key"))
        _, headers, _ = until_answered(connection)
    assert gateway.record(headers["x-request-id"])["status"] == 401


def test_a_good_key_is_asked_for_the_body_and_answered(gateway: RunningGateway, backend: FakeVllm) -> None:
    plain = httpx.post(
        gateway.url + CHAT,
        content=BODY,
        headers={"authorization": f"Bearer {STANDARD}", "content-type": "application/json"},
    )
    without = backend.requests[-1]
    status, headers, answer = asked(gateway, head(key=STANDARD))
    assert (status, answer["usage"]) == (200, plain.json()["usage"])
    assert int(headers["x-ratelimit-remaining-minute"]) == int(plain.headers["x-ratelimit-remaining-minute"]) - 1
    assert set(headers) == {name.lower() for name in plain.headers}
    got = backend.requests[-1]
    assert got.body == BODY
    ours = {name.lower() for name in got.headers}
    assert ours <= {name.lower() for name in without.headers}, "nothing of the second way gets to the server"
    assert {"expect", "authorization"}.isdisjoint(ours)


def used(gateway: RunningGateway) -> list[int]:
    usage = httpx.get(f"{gateway.url}/v1/usage", headers={"authorization": f"Bearer {STANDARD}"}).json()
    return [int(limit["used"]) for limit in usage["limits"] if limit["name"].endswith("_per_day")]


def at_rest(gateway: RunningGateway) -> list[int]:
    """What is used once the requests of other tests are counted, too."""
    before = used(gateway)
    while time.sleep(1) or (now := used(gateway)) != before:
        before = now
    return before


def test_it_is_one_record_with_the_clients_address_and_charged_once(gateway: RunningGateway) -> None:
    requests, tokens = at_rest(gateway)
    _, headers, answer = asked(gateway, head(key=STANDARD, X_Forwarded_For="9.9.9.9"))
    record = gateway.record(headers["x-request-id"])
    assert (record["client_ip"], record["user_id"], record["status"]) == ("127.0.0.1", "sam", 200)
    assert (record["bytes_in"], record["prompt_tokens"]) == (len(BODY), answer["usage"]["prompt_tokens"])
    assert record["backend"] is not None
    until(lambda: used(gateway) == [requests + 1, tokens + answer["usage"]["total_tokens"]], 5)
    time.sleep(0.3)  # for another record that must not come
    assert len([each for each in gateway.records() if each["request_id"] == headers["x-request-id"]]) == 1


def test_who_is_over_a_limit_is_told_so(gateway: RunningGateway) -> None:
    assert asked(gateway, head(key=FREE))[0] == 200
    status, headers, answer = asked(gateway, head(key=FREE))
    assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(headers["retry-after"]) > 0


def test_what_a_client_says_of_itself_is_believed_no_more_than_without(
    gateway: RunningGateway, backend: FakeVllm
) -> None:
    forged: dict[str, Any] = {
        "x_gatehouse_user": "root",
        "x_gatehouse_passed_on": "1",
        "x_gatehouse_authorization": "Bearer sk-nobody",
        "x_gatehouse_x_api_key": "sk-nobody",
        "x_gatehouse_client_ip": "10.1.2.3",
        "gatehouse_client_ip": "10.1.2.3",
        "x_request_id": "mine",
    }
    status, headers, _ = asked(gateway, head(**forged))
    assert status == 200
    record = gateway.record(headers["x-request-id"])
    assert (record["user_id"], record["client_ip"]) == ("dev-team", "127.0.0.1")
    assert headers["x-request-id"] != "mine"
    assert backend.requests[-1].headers["x-gatehouse-user"] == "dev-team"
    assert {"x-gatehouse-authorization", "x-gatehouse-x-api-key", "gatehouse-client-ip"}.isdisjoint(
        name.lower() for name in backend.requests[-1].headers
    )


def test_a_key_may_come_as_x_api_key(gateway: RunningGateway, backend: FakeVllm) -> None:
    status, _, _ = asked(gateway, head(key=None, x_api_key=PREMIUM))
    assert status == 200
    assert "x-api-key" not in backend.requests[-1].headers


@pytest.mark.parametrize(
    ("key", "body", "status", "code"),
    [
        (PREMIUM, b'{"model":"m",', 400, "invalid_json"),
        (LIMITED, BODY, 403, "model_not_allowed"),
    ],
)
def test_what_only_the_body_tells_is_refused_after_it(
    gateway: RunningGateway, key: str, body: bytes, status: int, code: str
) -> None:
    found, _, answer = asked(gateway, head(key=key, length=len(body)), body)
    assert (found, answer["error"]["code"]) == (status, code)


@pytest.mark.parametrize("expect", ["100-Continue", "100-continue, more", "nothing", ""])
def test_no_model_server_hears_of_any_expectation(gateway: RunningGateway, backend: FakeVllm, expect: str) -> None:
    with connected(gateway.url) as connection:
        connection.sendall(head(Expect=expect) + BODY)
        received = heard(connection)
    assert b" 200 OK\r\n" in received
    assert "expect" not in backend.requests[-1].headers


def test_http_2_clients_are_asked_as_well(gateway: RunningGateway) -> None:
    headers = [
        (":method", "POST"),
        (":path", CHAT),
        (":scheme", "http"),
        (":authority", "x"),
        ("content-type", "application/json"),
        ("expect", "100-continue"),
    ]
    assert http2(gateway.url, [*headers, ("authorization", "Bearer sk-nobody")]).status == 401
    assert http2(gateway.url, [*headers, ("authorization", f"Bearer {PREMIUM}")], BODY).status == 200


def test_a_client_that_leaves_is_charged_what_was_produced(gateway: RunningGateway, backend: FakeVllm) -> None:
    body = json.dumps({**json.loads(BODY), "stream": True, "max_tokens": 100, "ignore_eos": True}).encode()
    backend.script = Script(event_delay_s=0.02)
    try:
        with connected(gateway.url) as connection:
            connection.sendall(head(length=len(body)))
            connection.settimeout(5)
            assert connection.recv(65536).startswith(CONTINUE)
            connection.sendall(body)
            received = b""
            while received.count(b"data: ") < 10:
                received += connection.recv(65536)
    finally:
        backend.script = Script()
    request_id = next(line[14:] for line in received.decode().split("\r\n") if line.startswith("x-request-id: "))
    record = gateway.record(request_id)
    assert record["aborted"] is True
    assert 0 < record["completion_tokens"] < 100
    until(lambda: backend.running == 0, 5)
