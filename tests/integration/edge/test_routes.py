"""Only what a route names reaches a model server, by POST, from a caller that is known."""

import pytest

from gatehouse.contract.names import ENDPOINTS
from testkit.fakes.fake_vllm import FakeVllm
from testkit.raw_http import exchanged
from testkit.running_gateway import RunningGateway
from tests.integration.conftest import PREMIUM

BODY = b'{"input":"hi"}'
LINES = b"Host: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(BODY)
KEY = f"Authorization: Bearer {PREMIUM}\r\n".encode()

NOWHERE = [
    "/metrics",
    "/version",
    "/docs",
    "/openapi.json",
    "/ping",
    "/invocations",
    "/load",
    "/server_info",
    "/scale_elastic_ep",
    "/sleep",
    "/reset_prefix_cache",
    "/v1",
    "/v1/",
    "/v1/load_lora_adapter",
    "/v1/audio/transcriptions",
    "/v1/%2e%2e/metrics",
    "/v1/%2E%2E/version",
    "/v1/../metrics",
    "/v1/./../version",
    "/../../metrics",
    "//metrics",
    "/v1//../version",
    "/v1/..;/metrics",
    "/v1/embeddings/..;/../../metrics",
    "/v1/embeddings/../../metrics",
    "/v1/embeddings/",
    "/v1/embeddings/x",
    "/v1/embeddings;a=b",
    "/v1/embeddings.json",
    "/v1/embeddingsx",
    "/v1/embeddings%20",
    "/v1/embeddings%0d%0a",
    "/v1/embeddings%3f",
    "/v1/embeddings%23",
    "/v1/embeddings%3b",
    "/v1/embeddings%252f",
    "/v1/%252e%252e/metrics",
    "/V1/Embeddings",
    "/v1/models",
    "http://x/metrics",
    "http://metrics/",
]
BROKEN = [
    "/v1/embeddings#x",
    "/v1/embeddings%00",
    "/v1/embeddings#/../metrics",
    "*",
    "v1/embeddings",
    "x:80",
    "http://",
]
REDIRECTED = ["/v1%2fembeddings", "/v1%5cembeddings", "/v1/embeddings%2f..%2fmetrics", "/v1/%2e%2e%2fmetrics"]
"""What hides a slash is sent to where it leads, and there the rules hold."""
THERE = {
    "/v1/embeddings": "/v1/embeddings",
    "//v1//embeddings": "/v1/embeddings",
    "/v1/./embeddings": "/v1/embeddings",
    "/metrics/../v1/embeddings": "/v1/embeddings",
    "/v1/%2e%2e/v1/embeddings": "/v1/embeddings",
    "/v1\\embeddings": "/v1/embeddings",
    "/v1/%65mbeddings": "/v1/embeddings",
    "/v1/embeddings?a=/../../metrics": "/v1/embeddings?a=/../../metrics",
    "/v1/embeddings?": "/v1/embeddings",
    "http://x/v1/embeddings": "/v1/embeddings",
}


def ask(gateway: RunningGateway, target: str, method: str = "POST", key: bytes = KEY) -> tuple[int, str]:
    """Status and error code; a connection that is closed without an answer is 0."""
    found = exchanged(gateway.url, f"{method} {target} HTTP/1.1\r\n".encode() + LINES + key + b"\r\n" + BODY)
    if not found:
        return 0, ""
    plain = found[0].headers.get("content-type") == "application/json"
    return found[0].status_code, found[0].json().get("error", {}).get("code", "") if plain else ""


@pytest.mark.parametrize("target", NOWHERE)
def test_f33_what_no_route_takes_is_404_or_405(gateway: RunningGateway, backend: FakeVllm, target: str) -> None:
    before, is_a_page = (
        len(backend.requests),
        target.endswith(("/metrics", "/v1/models", "metrics/")) and "%25" not in target,
    )
    assert ask(gateway, target) == ((405, "method_not_allowed") if is_a_page else (404, "not_found"))
    assert len(backend.requests) == before


@pytest.mark.parametrize("target", BROKEN)
def test_f33_what_is_no_target_is_400(gateway: RunningGateway, backend: FakeVllm, target: str) -> None:
    before = len(backend.requests)
    assert ask(gateway, target) in ((400, "bad_request"), (404, "not_found"))
    assert len(backend.requests) == before


@pytest.mark.parametrize("target", REDIRECTED)
def test_f33_a_hidden_slash_gets_no_further(gateway: RunningGateway, backend: FakeVllm, target: str) -> None:
    before = len(backend.requests)
    assert ask(gateway, target) == (307, "")
    assert len(backend.requests) == before


@pytest.mark.parametrize("target", THERE)
def test_f33_what_means_an_endpoint_arrives_as_that_and_only_with_a_key(
    gateway: RunningGateway, backend: FakeVllm, target: str
) -> None:
    before = len(backend.requests)
    assert ask(gateway, target, key=b"") == (401, "missing_api_key")
    assert len(backend.requests) == before
    assert ask(gateway, target) == (200, "")
    [request] = backend.requests[before:]
    assert (request.method, request.path) == ("POST", THERE[target])
    assert request.headers["x-gatehouse-user"] == "dev-team"


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_f33_every_endpoint_asks_for_a_key(gateway: RunningGateway, backend: FakeVllm, endpoint: str) -> None:
    before = len(backend.requests)
    assert ask(gateway, endpoint, key=b"") == (401, "missing_api_key")
    assert ask(gateway, endpoint, key=b"X-Gatehouse-User: dev-team\r\n") == (401, "missing_api_key")
    assert len(backend.requests) == before


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "QUERY"])
@pytest.mark.parametrize(
    ("target", "allowed"), [("/v1/embeddings", "POST"), ("/v1/../version", None), ("/v1/../metrics", "GET, HEAD")]
)
def test_f33_only_what_a_path_takes_reaches_anybody(
    gateway: RunningGateway, backend: FakeVllm, method: str, target: str, allowed: str | None
) -> None:
    if method in (allowed or "").split(", "):
        return
    before = len(backend.requests)
    [answer] = exchanged(gateway.url, f"{method} {target} HTTP/1.1\r\n".encode() + LINES + KEY + b"\r\n" + BODY)
    code = answer.json()["error"]["code"]
    if allowed and method != "OPTIONS":
        assert (answer.status_code, code, answer.headers["allow"]) == (405, "method_not_allowed", allowed)
    else:
        assert (answer.status_code, code) == (404, "not_found")
    assert len(backend.requests) == before


@pytest.mark.parametrize("target", ["/chat/completions?api_key=sk-secret", '/v1/a"b%22\\c', "/" + "x" * 3000])
def test_what_is_not_there_is_named_without_its_query(gateway: RunningGateway, target: str) -> None:
    [answer] = exchanged(gateway.url, f"POST {target} HTTP/1.1\r\n".encode() + LINES + b"\r\n" + BODY)
    assert answer.status_code == 404
    said = answer.json()["error"]["message"]
    assert said.startswith("Unknown request URL: POST /")
    assert "sk-secret" not in answer.text
    assert len(said) < 400
    assert ("Did you mean /v1/chat/completions?" in said) == target.startswith("/chat")


@pytest.mark.parametrize(
    ("method", "target"), [("CONNECT", "x:80"), ("CONNECT", "/v1/embeddings"), ("post", "/v1/embeddings"), ("G@T", "/")]
)
def test_f33_no_tunnel_and_no_method_of_ones_own(
    gateway: RunningGateway, backend: FakeVllm, method: str, target: str
) -> None:
    before = len(backend.requests)
    assert ask(gateway, target, method) in ((400, "bad_request"), (404, "not_found"), (405, "method_not_allowed"))
    assert len(backend.requests) == before


def test_f33_the_admin_interface_is_a_socket_for_its_owner_alone(gateway: RunningGateway) -> None:
    admin = gateway.run_dir().admin_socket
    assert admin.is_socket()
    assert admin.stat().st_mode & 0o777 == 0o600
    assert admin.parent.stat().st_mode & 0o077 == 0
    for target in ("/server_info", "/config_dump", "/quitquitquit", "/stats"):
        assert ask(gateway, target) == (404, "not_found")
