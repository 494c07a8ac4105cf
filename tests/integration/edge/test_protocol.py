"""What clients of other kinds than SDKs get: probes, browsers, WebSockets, those who show too much."""

import re
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from testkit.authority import Authority
from testkit.fakes.fake_vllm import FakeVllm
from testkit.fakes.script import Script
from testkit.raw_http import connected, exchanged
from testkit.running_gateway import RunningGateway, running_gateway
from tests.integration.conftest import MODEL, PREMIUM, STANDARD, short_form

KEY = {"authorization": f"Bearer {PREMIUM}"}
BODY = {"model": MODEL, "input": "hi"}
ORIGIN = "https://chat.example.com"
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\n"
)


@pytest.fixture(scope="module")
def open_to_a_page(backend: FakeVllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    config = {**short_form(backend), "server": {"cors": [ORIGIN]}}
    with running_gateway(tmp_path_factory.mktemp("cors"), config) as running:
        yield running


@pytest.mark.parametrize("path", ["/health", "/"])
def test_a_probe_over_http_1_0_is_answered(gateway: RunningGateway, path: str) -> None:
    [answer] = exchanged(gateway.url, f"GET {path} HTTP/1.0\r\n\r\n".encode())
    assert answer.status_code == (200 if path == "/health" else 426)


def test_all_else_over_http_1_0_is_told_what_is_spoken(gateway: RunningGateway) -> None:
    sent = f"GET /v1/models HTTP/1.0\r\nHost: x\r\nAuthorization: Bearer {PREMIUM}\r\n\r\n"
    [answer] = exchanged(gateway.url, sent.encode())
    assert (answer.status_code, answer.json()["error"]["code"]) == (426, "upgrade_required")


def test_how_a_client_speaks_is_not_for_it_to_say(gateway: RunningGateway) -> None:
    with gateway.client(headers={**KEY, "x-gatehouse-http-version": "HTTP/1.0"}) as client:
        assert client.get("/v1/models").status_code == 200


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/realtime", "/"])
def test_an_upgrade_to_a_websocket_is_426_so_that_clients_fall_back(gateway: RunningGateway, path: str) -> None:
    sent = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {PREMIUM}\r\n{UPGRADE}\r\n"
    [answer] = exchanged(gateway.url, sent.encode())
    assert (answer.status_code, answer.json()["error"]["code"]) == (426, "http_required")
    assert answer.headers["x-request-id"]


def test_what_a_client_shows_others_stops_here(gateway: RunningGateway, backend: FakeVllm) -> None:
    shown = {"cookie": "session=1", "proxy-authorization": "Basic eA==", "api-key": "k", "x-data-parallel-rank": "1"}
    with gateway.client(headers={**KEY, **shown}) as client:
        assert client.post("/v1/embeddings", json=BODY).status_code == 200
    got = {name.lower() for name in backend.requests[-1].headers}
    assert got & {*shown, "authorization", "x-gatehouse-http-version"} == set()


def test_a_server_that_has_limits_of_its_own_does_not_double_ours(
    open_to_a_page: RunningGateway, backend: FakeVllm
) -> None:
    own = {"x-ratelimit-limit-requests": "7", "x-ratelimit-remaining-tokens": "9", "content-type": "application/json"}
    backend.script = Script(status=200, headers=own, body=b"{}")
    try:
        with open_to_a_page.client(headers=KEY) as client:
            answer = client.post("/v1/embeddings", json=BODY)
    finally:
        backend.script = Script()
    assert answer.headers.get_list("x-ratelimit-limit-requests") == ["100"]
    assert "x-ratelimit-remaining-tokens" not in answer.headers


@pytest.mark.parametrize("value", [b"a\r\n b", b"a\r\n\tb", b"a\rb", b"a\r b"], ids=["fold", "tab", "bare CR", "CR SP"])
def test_no_line_end_within_a_header_goes_on(gateway: RunningGateway, backend: FakeVllm, value: bytes) -> None:
    """Envoy makes one line of it before anybody sees it (RFC 9112 §2.2, §5.2), so there is no second reading."""
    head = (
        b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + PREMIUM.encode() + b"\r\nX-A: " + value
    )
    [answer] = exchanged(
        gateway.url, head + b'\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{"input":"hi"}'
    )
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        assert backend.requests[-1].headers["x-a"] in ("a b", "a\tb", "ab")


def preflight(gateway: RunningGateway, origin: str) -> httpx.Response:
    asked = {"origin": origin, "access-control-request-method": "POST"}
    asked["access-control-request-headers"] = "authorization,content-type,x-stainless-lang"
    return httpx.options(f"{gateway.url}/v1/chat/completions", headers=asked)


def test_a_page_of_a_configured_origin_may_call(open_to_a_page: RunningGateway) -> None:
    answer = preflight(open_to_a_page, ORIGIN)
    assert answer.status_code in (200, 204)
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == "*, authorization"
    assert "access-control-allow-credentials" not in answer.headers
    with open_to_a_page.client(headers={**KEY, "origin": ORIGIN}) as client:
        answers = [client.post("/v1/embeddings", json=BODY), client.get("/v1/models")]
        answers.append(client.post("/v1/embeddings", json=BODY, headers={"authorization": "Bearer wrong"}))
    assert [each.status_code for each in answers] == [200, 200, 401]
    assert {each.headers["access-control-allow-origin"] for each in answers} == {ORIGIN}, "a refusal can be read, too"
    assert "x-request-id" in answers[0].headers["access-control-expose-headers"]


def test_a_page_from_elsewhere_may_not(open_to_a_page: RunningGateway) -> None:
    answer = preflight(open_to_a_page, "https://evil.example.com")
    assert answer.status_code == 404
    assert "access-control-allow-origin" not in answer.headers


def test_without_origins_a_preflight_is_404(gateway: RunningGateway) -> None:
    assert preflight(gateway, ORIGIN).status_code == 404


def asked(gateway: RunningGateway, path: str, headers: dict[str, str], times: int) -> list[httpx.Response]:
    with gateway.client(headers=headers) as client:
        return [client.get(path) for _ in range(times)]


def pipelined(gateway: RunningGateway, path: str, headers: dict[str, str], times: int) -> Counter[bytes]:
    """Statuses of `times` requests on one connection, 50 at a time: more than 200 a second on any machine."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    one, found = f"GET {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode(), Counter[bytes]()
    with connected(gateway.url, 30) as connection:
        for _ in range(times // 50):
            connection.sendall(one * 50)
            seen = b""
            while seen.count(b"HTTP/1.1 ") < 50 or not seen.rstrip().endswith(b"}"):
                seen += connection.recv(65536)
            found.update(re.findall(rb"HTTP/1.1 (\d+)", seen))
    return found


def test_the_pages_have_limits_of_their_own_and_models_do_not_share_them(backend: FakeVllm, tmp_path: Path) -> None:
    with running_gateway(tmp_path, short_form(backend)) as own:
        answers = asked(own, "/", {}, 900)
        refused = [each for each in answers if each.status_code == 429]
        assert {each.status_code for each in answers} == {200, 429}
        assert answers[400].status_code == 200
        assert refused[0].json()["error"]["code"] == "rate_limit_exceeded"
        assert int(refused[0].headers["retry-after"]) == 1
        with own.client(headers=KEY) as client:
            assert client.get("/v1/models").status_code == 200
            assert client.post("/v1/embeddings", json=BODY).status_code == 200


def test_one_user_who_asks_our_api_too_often_leaves_others_alone(backend: FakeVllm, tmp_path: Path) -> None:
    with running_gateway(tmp_path, short_form(backend)) as own:
        statuses = pipelined(own, "/v1/models/none", KEY, 6000)
        assert statuses.keys() == {b"404", b"429"}
        assert statuses[b"404"] > 1900
        assert asked(own, "/v1/models", {"authorization": f"Bearer {STANDARD}"}, 1)[0].status_code == 200


def test_half_a_handshake_is_not_kept(backend: FakeVllm, tmp_path: Path) -> None:
    key, certificate = Authority(tmp_path).issue("server", "localhost", timedelta(days=2))
    config: dict[str, Any] = short_form(backend)
    config["server"] = {"tls": {"cert_file": str(certificate), "key_file": str(key)}}
    with running_gateway(tmp_path, config) as own, ExitStack() as stack:
        started = time.monotonic()
        halves = []
        for _ in range(20):
            begun, context = ssl.MemoryBIO(), ssl.create_default_context()
            tls = context.wrap_bio(ssl.MemoryBIO(), begun, server_hostname="localhost")
            with pytest.raises(ssl.SSLWantReadError):
                tls.do_handshake()
            connection = stack.enter_context(connected(own.url, 30))
            connection.sendall(begun.read())
            halves.append(connection)
        for connection in halves:
            while connection.recv(65536):
                pass
        assert 8 < time.monotonic() - started < 20
