"""No client can write into the logs what did not happen: one request, one line, whatever it sends."""

import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testkit.fakes.fake_vllm import FakeVllm
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until
from tests.integration.conftest import PREMIUM, short_form
from tests.integration.test_reconcile import reconcile

FORGED = '{"time":"2026-11-01T00:00:00.000+00:00","request_id":"forged","user_id":"root","status":200}'
NASTY = [
    FORGED,
    f"\n{FORGED}\n",
    f'x","user_id":"root","request_id":"forged","a":"{FORGED}',
    "\\\\\\",
    '"' * 50,
    "\u2028\u2029\u0085",
    "\x1b[31mred\x1b[0m",
    "\x00\x01\x7f",
    "x" * 8192,
    "é漢🙂" * 3000,
    "%7B%22%0a%0d",
    "%REQ(AUTHORIZATION)%",
    "\ud800",
]


@pytest.fixture(scope="module")
def gateway(backend: FakeVllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    config = {**short_form(backend), "rate_limits": {name: {} for name in ("premium", "standard", "free", "unlimited")}}
    with running_gateway(tmp_path_factory.mktemp("forging"), config) as running:
        yield running


def send(gateway: RunningGateway, path: bytes, model: Any, agent: bytes, extra: bytes) -> str | None:
    """The id of the request that was made of it, as far as there was one. The server closes the connection."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}).encode()
    head = [b"POST " + path + b" HTTP/1.1", b"host: gateway", b"authorization: Bearer " + PREMIUM.encode()]
    head += [b"content-type: application/json", b"content-length: %d" % len(body), b"connection: close"]
    head += [
        b"user-agent: " + agent,
        b"traceparent: " + extra,
        b"x-request-id: " + extra,
        b"x-gatehouse-user: " + extra,
    ]
    parts = urlsplit(gateway.url)
    with socket.create_connection((parts.hostname, parts.port), 10) as client:
        client.settimeout(10)
        answer = b""
        try:
            client.sendall(b"\r\n".join([*head, b"", body]))
            while data := client.recv(65536):
                answer += data
        except OSError:
            pass  # it hung up before it had read everything
    for line in answer.split(b"\r\n"):
        if line.lower().startswith(b"x-request-id: "):
            return line[len(b"x-request-id: ") :].decode()
    return None


def entries(path: Path) -> list[dict[str, Any]]:
    """Every line of a log; each must be whole and valid."""
    content = path.read_bytes()
    assert content.endswith(b"\n") or not content
    return [json.loads(line) for line in content.split(b"\n")[:-1]]


def eventually_logged(gateway: RunningGateway, count: int) -> list[dict[str, Any]]:
    """What the tests have asked for, once that is `count` lines: whoever waits for the gateway asks for its health."""

    def found() -> list[dict[str, Any]]:
        lines = [line for path in gateway.logs("requests_*.log") for line in entries(path)]
        return [line for line in lines if line["endpoint"] != "/health"]

    until(lambda: len(found()) >= count, what=f"{count} lines")
    return found()


def header(value: str) -> bytes:
    """As much of `value` as may stand in a header: Envoy refuses the request otherwise, which the tests want too."""
    return value.encode("utf-8", "surrogatepass").replace(b"\r", b"").replace(b"\n", b"")


PATHS = [b"/v1/chat/completions", b"/v1/models/", b"/", b"/v1/chat/completions?x=", b"/v1/%0a"]
TEXTS = st.sampled_from(NASTY) | st.text(max_size=60)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    path=st.sampled_from(PATHS),
    tail=TEXTS,
    model=TEXTS | st.none() | st.integers() | st.lists(st.text(max_size=5), max_size=2),
    agent=TEXTS,
    extra=TEXTS,
)
def test_f37_one_request_is_one_line_whatever_it_carries(
    gateway: RunningGateway, path: bytes, tail: str, model: Any, agent: str, extra: str
) -> None:
    before = len(eventually_logged(gateway, 0))
    target = path + header(tail).replace(b" ", b"%20") if path != b"/v1/chat/completions" else path
    request_id = send(gateway, target, model, header(agent), header(extra))
    lines = eventually_logged(gateway, before + 1)
    assert len(lines) == before + 1
    assert "forged" not in {line["request_id"] for line in lines}
    assert lines[-1]["user_id"] in (None, "dev-team")
    assert len(lines[-1]["user_agent"] or "") <= 256
    assert len(lines[-1]["model"] or "") <= 256
    assert len(lines[-1]["endpoint"]) <= 128
    if request_id and lines[-1]["request_id"]:
        assert lines[-1]["request_id"] == request_id


def test_f37_envoys_own_log_holds_the_same_requests(gateway: RunningGateway) -> None:
    """Runs after the fuzzing: both logs tell of the same requests, and a comparison finds nothing to restore."""
    for text in NASTY:
        send(gateway, PATHS[0], text, header(text), header(text))
    time.sleep(2)  # Envoy writes once a second
    [request_log] = gateway.logs("requests_*.log")
    envoys = Counter(line["request_id"] or "" for line in entries(gateway.directory / "logs" / "envoy_access.log"))
    ours = Counter(line["request_id"] for line in entries(request_log))
    assert envoys == ours
    report = reconcile(gateway)
    assert (report["restored"], report["unreadable"]) == (0, 0)
    assert "forged" not in ours
