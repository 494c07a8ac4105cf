"""Every row of the error table, through real Envoy: status, type, code, shape, content type and request id."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx2 as httpx
import pytest

from gatehouse.gateway.envoy_admin import Admin
from testkit.fakes.fake_vllm import FakeVllm
from testkit.fakes.script import Script
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until
from tests.integration.conftest import ELSEWHERE, EXPIRED, FREE, LIMITED, MODEL, PREMIUM, keys, short_form

CHAT = "/v1/chat/completions"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def assert_error(answer: httpx.Response, status: int, kind: str, code: str) -> dict[str, Any]:
    """The envelope that every error has, and nothing else."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    body: dict[str, Any] = answer.json()
    assert body.keys() == {"error", "detail"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert (body["error"]["type"], body["error"]["code"]) == (kind, code)
    assert body["detail"] == body["error"]["message"]
    return body


@pytest.fixture(scope="module")
def client(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with gateway.client() as http:
        yield http


@pytest.fixture(scope="module")
def long_form(backend: FakeVllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """Two named models and no default, a small body limit and little patience with streams."""
    config = {
        "models": {
            "tiny": {"backends": [{"url": f"{backend.url}/v1"}], "aliases": ["tiny-too"]},
            "large": {"backends": [{"url": f"{backend.url}/v1"}]},
        },
        "api_keys": keys(),
        "rate_limits": {"premium": {}, "standard": {}, "free": {}, "unlimited": {}},
        "server": {"max_body_mb": 1, "stream_idle_timeout_s": 1},
    }
    with running_gateway(tmp_path_factory.mktemp("long"), config) as running:
        yield running


@pytest.mark.parametrize("body", [b"{", b"not json", b"", b'{"model": 1e400}', b'{"model":"m","a":"\xff"}'])
def test_a_body_that_is_not_json_is_400_invalid_json(client: httpx.Client, body: bytes) -> None:
    headers = {**bearer(PREMIUM), "content-type": "application/json"}
    assert_error(client.post(CHAT, content=body, headers=headers), 400, "invalid_request_error", "invalid_json")


def test_json_sent_as_something_else_is_400_invalid_json(client: httpx.Client) -> None:
    answer = client.post(CHAT, content=b"{}", headers={**bearer(PREMIUM), "content-type": "text/plain"})
    assert_error(answer, 400, "invalid_request_error", "invalid_json")


def test_no_model_and_no_default_is_400_missing_model(long_form: RunningGateway) -> None:
    answer = httpx.post(long_form.url + CHAT, json={"messages": []}, headers=bearer(PREMIUM))
    assert_error(answer, 400, "invalid_request_error", "missing_model")


def test_no_model_goes_to_the_default_whose_name_is_written_in(client: httpx.Client, backend: FakeVllm) -> None:
    body = b'{"messages":[{"role":"user","content":"hi"}]}'
    answer = client.post(CHAT, content=body, headers={**bearer(PREMIUM), "content-type": "application/json"})
    assert answer.status_code == 200
    assert backend.requests[-1].body == body[:-1] + f',"model":"{MODEL}"}}'.encode()
    assert backend.requests[-1].headers["content-length"] == str(len(backend.requests[-1].body))
    assert backend.requests[-1].headers["x-gatehouse-model"] == MODEL


def test_no_key_is_401_missing_api_key(client: httpx.Client) -> None:
    answer = client.post(CHAT, json=BODY)
    assert_error(answer, 401, "invalid_request_error", "missing_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers",
    [
        bearer("sk-unknown-key-999"),
        bearer(EXPIRED),
        {"authorization": f"Basic {PREMIUM}"},
        {"authorization": "Bearer"},
        {"authorization": f"Bearer {PREMIUM},{PREMIUM}"},
        {"authorization": f"Bearer {PREMIUM}", "x-api-key": FREE},
        {"x-api-key": "wrong-key-000"},
    ],
)
def test_a_key_that_does_not_open_is_401_with_one_constant_text(client: httpx.Client, headers: dict[str, str]) -> None:
    body = assert_error(client.post(CHAT, json=BODY, headers=headers), 401, "invalid_request_error", "invalid_api_key")
    assert body["detail"] == "Incorrect API key provided."


def test_two_authorization_headers_are_refused(client: httpx.Client) -> None:
    headers = [("authorization", f"Bearer {PREMIUM}"), ("authorization", f"Bearer {PREMIUM}")]
    assert_error(client.post(CHAT, json=BODY, headers=headers), 401, "invalid_request_error", "invalid_api_key")


@pytest.mark.parametrize("headers", [{"authorization": f"bearer {PREMIUM}"}, {"x-api-key": PREMIUM}])
def test_both_ways_to_send_a_key_open(client: httpx.Client, headers: dict[str, str]) -> None:
    assert client.post(CHAT, json=BODY, headers=headers).status_code == 200


def test_a_key_from_another_address_is_401_ip_not_authorized(client: httpx.Client) -> None:
    answer = client.post(CHAT, json=BODY, headers=bearer(ELSEWHERE))
    assert_error(answer, 401, "invalid_request_error", "ip_not_authorized")


def test_a_model_outside_the_keys_list_is_403_model_not_allowed(long_form: RunningGateway) -> None:
    answer = httpx.post(long_form.url + CHAT, json={**BODY, "model": "large"}, headers=bearer(LIMITED))
    assert_error(answer, 403, "invalid_request_error", "model_not_allowed")


@pytest.mark.parametrize("model", ["tiny", "tiny-too"])
def test_a_model_in_the_keys_list_opens_by_any_of_its_names(long_form: RunningGateway, model: str) -> None:
    answer = httpx.post(long_form.url + CHAT, json={**BODY, "model": model}, headers=bearer(LIMITED))
    assert answer.status_code == 200


def test_the_default_model_needs_permission_too(client: httpx.Client) -> None:
    answer = client.post(CHAT, json={"messages": []}, headers=bearer(LIMITED))
    assert_error(answer, 403, "invalid_request_error", "model_not_allowed")


@pytest.mark.parametrize("key", [PREMIUM, LIMITED])
def test_an_unknown_model_is_404_model_not_found(long_form: RunningGateway, key: str) -> None:
    answer = httpx.post(long_form.url + CHAT, json={**BODY, "model": "no-such"}, headers=bearer(key))
    assert_error(answer, 404, "invalid_request_error", "model_not_found")


UNKNOWN_ROUTES = [
    ("GET", "/v2"),
    ("GET", CHAT),
    ("PUT", CHAT),
    ("POST", "/metrics"),
    ("POST", "/v1/chat/completions/"),
    ("POST", "/v1/chat/completionsx"),
    ("POST", "/scale_elastic_ep"),
    ("POST", "/inference/v1/generate"),
    ("GET", "/docs"),
    ("GET", "/v1/../version"),
    ("POST", "/v1/chat/completions;a=b"),
    ("TRACE", "/"),
]


@pytest.mark.parametrize(("method", "path"), UNKNOWN_ROUTES)
def test_anything_else_is_404_and_reaches_no_model_server(
    client: httpx.Client, backend: FakeVllm, method: str, path: str
) -> None:
    before = len(backend.requests)
    answer = client.request(method, path, headers=bearer(PREMIUM))
    known = path in ("/", "/health", "/metrics", CHAT)
    status, code = (405, "method_not_allowed") if known else (404, "not_found")
    assert_error(answer, status, "invalid_request_error", code)
    assert len(backend.requests) == before


def test_a_body_declared_too_large_is_413_before_anyone_is_asked(long_form: RunningGateway) -> None:
    answer = httpx.post(long_form.url + CHAT, content=b" " * (2 * 1024 * 1024))  # no key, and no 401 either
    assert_error(answer, 413, "invalid_request_error", "request_too_large")


def test_a_chunked_body_that_grows_too_large_is_413(long_form: RunningGateway) -> None:
    pieces = (b" " * 65536 for _ in range(32))
    headers = {**bearer(PREMIUM), "content-type": "application/json"}
    answer = httpx.post(long_form.url + CHAT, content=pieces, headers=headers)
    assert_error(answer, 413, "invalid_request_error", "request_too_large")


def test_headers_too_large_are_431(client: httpx.Client) -> None:
    answer = client.post(CHAT, json=BODY, headers=bearer("x" * 65536))
    assert_error(answer, 431, "invalid_request_error", "headers_too_large")


def raw(gateway: RunningGateway, request: bytes) -> httpx.Response:
    """What a client that does not speak proper HTTP gets."""
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.sendall(request)
        connection.settimeout(5)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    return httpx.Response(int(status.split()[1]), headers=headers, content=body)


def test_http_1_0_is_426(gateway: RunningGateway) -> None:
    answer = raw(gateway, b"GET /v1/models HTTP/1.0\r\nHost: x\r\n\r\n")
    assert (answer.status_code, answer.json()["error"]["code"]) == (426, "upgrade_required")


@pytest.mark.parametrize(
    "request_",
    [
        b"GARBAGE\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nsome_header: 1\r\n\r\n",
    ],
)
def test_what_is_no_proper_http_is_400_in_our_shape(gateway: RunningGateway, request_: bytes) -> None:
    answer = raw(gateway, request_)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "bad_request"


def test_plaintext_is_426_where_https_is_required(backend: FakeVllm, tmp_path: Any) -> None:
    config = {**short_form(backend), "server": {"require_https": True}}
    with running_gateway(tmp_path, config) as running:
        for path in ("/", "/v1/models", CHAT, "/nowhere"):
            answer = httpx.get(running.url + path)
            assert_error(answer, 426, "invalid_request_error", "https_required")
        assert httpx.get(f"{running.url}/health").status_code == 200


def test_no_answer_in_time_is_504_timeout(long_form: RunningGateway, backend: FakeVllm) -> None:
    backend.script = Script(headers_after_s=5)
    try:
        answer = httpx.post(long_form.url + CHAT, json={**BODY, "model": "tiny"}, headers=bearer(PREMIUM), timeout=10)
    finally:
        backend.script = Script()
    assert_error(answer, 504, "service_unavailable_error", "timeout")
    assert int(answer.headers["retry-after"]) >= 1


def test_a_full_model_server_is_503_server_is_overloaded(tmp_path: Any) -> None:
    """With room for one request instead of thousands, which Envoy takes up from its file while it runs."""
    with FakeVllm() as backend, running_gateway(tmp_path, short_form(backend)) as running:
        admin, clusters = Admin(running.run_dir().admin_socket), running.run_dir().envoy / "clusters.yaml"
        narrow = clusters.with_name("narrow")
        narrow.write_text(clusters.read_text().replace("16384", "1"))
        modified, warming = (
            partial(admin.gauge, f"cluster_manager.{name}") for name in ("cluster_modified", "warming_clusters")
        )
        before = asyncio.run(modified())
        narrow.rename(clusters)
        until(lambda: asyncio.run(modified()) > before and asyncio.run(warming()) == 0)
        backend.script = Script(headers_after_s=2)
        with ThreadPoolExecutor(6) as pool:
            ask = partial(httpx.post, running.url + CHAT, json=BODY, headers=bearer(PREMIUM), timeout=20)
            answers = list(pool.map(lambda _: ask(), range(6)))
        refused = next(answer for answer in answers if answer.status_code != 200)
        assert_error(refused, 503, "service_unavailable_error", "server_is_overloaded")
        assert int(refused.headers["retry-after"]) >= 1


def test_a_model_server_that_is_down_is_503_at_once_and_back_within_5_s(tmp_path: Any) -> None:
    with FakeVllm() as backend, running_gateway(tmp_path, short_form(backend)) as running, running.client() as client:
        assert client.get("/health").json()["vllm_status"] == "connected"
        backend.down()
        started = time.monotonic()
        answer = client.post(CHAT, json=BODY, headers=bearer(PREMIUM))
        health = client.get("/health")
        assert time.monotonic() - started < 2
        assert_error(answer, 503, "service_unavailable_error", "backend_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert health.status_code == 503
        assert (health.json()["status"], health.json()["vllm_status"]) == ("unhealthy", "disconnected")
        backend.up()
        until(lambda: client.get("/health").is_success, 5, "/health")
        until(lambda: client.post(CHAT, json=BODY, headers=bearer(PREMIUM)).is_success, 5, "an answer")


def test_the_model_servers_own_errors_pass_through_untouched(client: httpx.Client, backend: FakeVllm) -> None:
    theirs = b'{"error":{"message":"The model `x` does not exist.","type":"NotFoundError","param":"model","code":404}}'
    backend.script = Script(status=404, headers={"content-type": "application/json"}, body=theirs)
    try:
        answer = client.post(CHAT, json=BODY, headers=bearer(PREMIUM))
    finally:
        backend.script = Script()
    assert (answer.status_code, answer.content) == (404, theirs)


def test_authz_down_is_503_auth_unavailable_and_never_an_answer(tmp_path: Any, backend: FakeVllm) -> None:
    with running_gateway(tmp_path, short_form(backend)) as running, running.client() as client:
        workers = [pid for name, pid in running.children().items() if name.startswith("authz")]
        before = len(backend.requests)
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            answer = client.post(CHAT, json=BODY, headers=bearer(PREMIUM))
            took = time.monotonic() - started
        finally:
            for pid in workers:
                os.kill(pid, signal.SIGCONT)
        assert_error(answer, 503, "service_unavailable_error", "auth_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert took < 2
        assert len(backend.requests) == before
