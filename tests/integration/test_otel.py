"""OpenTelemetry as an operator gets it: the real gateway, and a receiver that speaks OTLP."""

import json
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from accesslog_service.sinks import gen_ai as sink
from testkit.fakes.fake_vllm import FakeVllm
from testkit.fakes.script import Script
from testkit.otlp_receiver import CLIENT, SERVER, OtlpReceiver, Point, Span, otlp_receiver
from testkit.ports import free_port
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until
from tests.integration.conftest import FREE, MODEL, PREMIUM, STANDARD, short_form

CHECK = "async envoy.service.auth.v3.Authorization.Check egress"
LIMITS = "async envoy.service.ratelimit.v3.RateLimitService.ShouldRateLimit egress"
CHAT, CALL = "POST /v1/chat/completions", f"chat {MODEL}"
PROMPT, QUERY, BAD_KEY = "canary-prompt-8b1", "canary-query-8b1", "sk-canary-key-8b1"


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    with otlp_receiver() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(
    backend: FakeVllm, receiver: OtlpReceiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    config = {**short_form(backend), "tracing": {"sample": 0, "metrics_interval_s": 1}}
    config["rate_limits"] = {"premium": {}, "standard": {}, "free": {"requests_per_minute": 1}, "unlimited": {}}
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
    with running_gateway(tmp_path_factory.mktemp("gateway"), config, environment=environment) as running:
        yield running


def traceparent(sampled: bool = True) -> tuple[str, str, dict[str, str]]:
    """A new trace: its id, the id of the span that calls, and the header that says so."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    return trace, span, {"traceparent": f"00-{trace}-{span}-0{int(sampled)}"}


def chat(
    gateway: RunningGateway,
    headers: dict[str, str],
    key: str = PREMIUM,
    path: str = "/v1/chat/completions",
    **body: Any,
) -> httpx.Response:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 5, **body}
    with gateway.client() as client:
        return client.post(path, json=asked, headers={"authorization": f"Bearer {key}", **headers})


def by_name(spans: list[Span]) -> dict[str, Span]:
    return {span.name: span for span in spans}


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_one_tree_below_the_clients_own_span(
    gateway: RunningGateway, backend: FakeVllm, receiver: OtlpReceiver, stream: bool
) -> None:
    trace, caller, headers = traceparent()
    answer = chat(gateway, headers, stream=stream)
    assert answer.status_code == 200
    spans = by_name(receiver.trace(trace, 4))
    ingress = spans.pop(CHAT)
    assert (ingress.kind, ingress.parent_id) == (SERVER, caller)
    assert set(spans) == {CHECK, LIMITS, CALL}
    assert {(span.kind, span.parent_id) for span in spans.values()} == {(CLIENT, ingress.span_id)}
    upstream = backend.requests[-1].headers["traceparent"]
    assert upstream == f"00-{trace}-{spans[CALL].span_id}-01"
    assert ingress.resource["service.name"] == "gatehouse"


def test_a_span_says_who_asked_for_what_and_what_it_took(gateway: RunningGateway, receiver: OtlpReceiver) -> None:
    trace, _, headers = traceparent()
    answer = chat(gateway, headers)
    usage, record = answer.json()["usage"], gateway.record(answer.headers["x-request-id"])
    spans = by_name(receiver.trace(trace, 4))
    assert {k: v for k, v in spans[CHAT].attributes.items() if k.startswith(("gen_ai.", "gatehouse."))} == {
        "gatehouse.user": "dev-team",
        "gatehouse.tier": "premium",
        "gatehouse.key_id": "dev",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": MODEL,
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
    }
    assert spans[CALL].attributes["gen_ai.request.model"] == MODEL
    assert record["trace_id"] == trace


def test_a_sampled_flag_that_is_off_is_honoured_and_the_trace_still_known(
    gateway: RunningGateway, backend: FakeVllm, receiver: OtlpReceiver
) -> None:
    quiet, _, headers = traceparent(sampled=False)
    answer = chat(gateway, headers)
    assert backend.requests[-1].headers["traceparent"].startswith(f"00-{quiet}-")
    assert backend.requests[-1].headers["traceparent"].endswith("-00")
    assert gateway.record(answer.headers["x-request-id"])["trace_id"] == quiet
    later, _, headers = traceparent()
    chat(gateway, headers)
    receiver.trace(later, 4)
    assert [span for span in receiver.spans if span.trace_id == quiet] == []


def test_what_is_refused_is_traced_and_recorded_under_the_same_id(
    gateway: RunningGateway, receiver: OtlpReceiver
) -> None:
    trace, _, headers = traceparent()
    answer = chat(gateway, headers, key=BAD_KEY)
    assert answer.status_code == 401
    assert set(by_name(receiver.trace(trace, 2))) == {CHECK, CHAT}
    assert gateway.record(answer.headers["x-request-id"])["trace_id"] == trace


def test_a_trace_of_what_was_over_a_limit_says_which(gateway: RunningGateway, receiver: OtlpReceiver) -> None:
    chat(gateway, {}, key=FREE)
    trace, _, headers = traceparent()
    answer = chat(gateway, headers, key=FREE)
    assert answer.status_code == 429
    spans = by_name(receiver.trace(trace, 3))
    assert set(spans) == {CHECK, LIMITS, CHAT}
    limited_by = gateway.record(answer.headers["x-request-id"])["limited_by"]
    assert spans[CHAT].attributes["gatehouse.limited_by"] == limited_by
    assert spans[CHAT].attributes["gen_ai.request.model"] == MODEL


def test_a_request_without_a_trace_gets_one_which_both_logs_name(gateway: RunningGateway, backend: FakeVllm) -> None:
    answer = chat(gateway, {})
    request_id = answer.headers["x-request-id"]
    trace = backend.requests[-1].headers["traceparent"].split("-")[1]
    assert gateway.record(request_id)["trace_id"] == trace
    (file,) = gateway.logs("envoy_access.log")
    line = until(lambda: [x for x in file.read_text().splitlines() if request_id in x])[0]
    assert f'"trace_id":"{trace}"' in line


def test_a_traceparent_that_is_none_hurts_nobody(gateway: RunningGateway) -> None:
    answer = chat(gateway, {"traceparent": "00-" + "z" * 4000, "tracestate": "a=" + "b" * 4000})
    assert answer.status_code == 200
    assert gateway.record(answer.headers["x-request-id"])["trace_id"] is None


def test_no_span_and_no_metric_holds_a_key_a_prompt_or_a_query(gateway: RunningGateway, receiver: OtlpReceiver) -> None:
    trace, _, headers = traceparent()
    chat(gateway, headers, path=f"/v1/chat/completions?api_key={QUERY}")
    spans = receiver.trace(trace, 4)
    urls = [span.attributes["http.url"] for span in spans if "http.url" in span.attributes]
    assert urls == [f"{gateway.url}/v1/chat/completions"] * 2
    chat(gateway, {**traceparent()[2], "x-api-key": BAD_KEY}, key=BAD_KEY)
    for stream in (False, True):
        trace, _, headers = traceparent()
        chat(gateway, headers, stream=stream)
        receiver.trace(trace, 4)
    exports = receiver.exports
    until(lambda: receiver.exports > exports + 2)
    for secret in (PROMPT, QUERY, BAD_KEY, PREMIUM, STANDARD, "Bearer"):
        assert secret.encode() not in receiver.raw


def test_probes_begin_no_trace(backend: FakeVllm, tmp_path: Path) -> None:
    with otlp_receiver() as receiver:
        config = {**short_form(backend), "tracing": {"otlp_endpoint": receiver.url, "sample": 1}}
        with running_gateway(tmp_path, config) as gateway, gateway.client() as client:
            assert client.get("/health").status_code == 200
            client.get("/health", headers=traceparent()[2])
            answer = chat(gateway, {}, key=STANDARD)
            chatted = gateway.record(answer.headers["x-request-id"])["trace_id"]
            receiver.trace(chatted, 4)
            assert {span.trace_id for span in receiver.spans} == {chatted}


def reached(record: dict[str, Any]) -> bool:
    return record["backend"] is not None and record["endpoint"] != "/tokenize"


def of(points: list[Point], metric: str, **attributes: Any) -> list[Point]:
    wanted = {name.replace("__", "."): value for name, value in attributes.items()}
    return [p for p in points if p.metric == metric and wanted.items() <= p.attributes.items()]


def requests(receiver: OtlpReceiver) -> int:
    return sum(point.count for point in of(receiver.points, "gen_ai.server.request.duration"))


def total(points: list[Point]) -> float:
    return sum(point.sum for point in points)


def test_metrics_are_the_conventions_and_equal_the_records(
    gateway: RunningGateway, backend: FakeVllm, receiver: OtlpReceiver
) -> None:
    before = len(gateway.records())
    with gateway.client(headers={"authorization": f"Bearer {PREMIUM}"}) as client:
        for stream in (False, True):
            for _ in range(3):
                client.post(
                    "/v1/completions", json={"model": MODEL, "prompt": PROMPT, "stream": stream, "max_tokens": 7}
                )
        client.post("/v1/embeddings", json={"model": MODEL, "input": PROMPT})
        client.post("/tokenize", json={"model": MODEL, "prompt": PROMPT})
        backend.script = Script(status=500)
        client.post("/v1/completions", json={"model": MODEL, "prompt": PROMPT})
        backend.script = Script()
        client.post("/v1/completions", json={"model": MODEL, "prompt": PROMPT}, headers={"authorization": "Bearer x"})
    records = [record for record in gateway.records(before + 10) if reached(record)]
    until(lambda: requests(receiver) >= len(records))
    points = receiver.points
    tokens, duration = of(points, "gen_ai.client.token.usage"), of(points, "gen_ai.server.request.duration")
    assert sum(p.count for p in duration) == len(records)
    assert total(duration) == pytest.approx(sum(r["duration_ms"] for r in records) / 1000)
    for kind, field in (("input", "prompt_tokens"), ("output", "completion_tokens")):
        counted = [r[field] for r in records if r[field]]
        found = of(tokens, "gen_ai.client.token.usage", gen_ai__token__type=kind)
        assert (total(found), sum(p.count for p in found)) == (sum(counted), len(counted))
    first = [r["ttft_ms"] for r in records if r["stream"] and r["ttft_ms"] is not None]
    assert total(of(points, "gen_ai.server.time_to_first_token")) == pytest.approx(sum(first) / 1000)
    assert sum(p.count for p in of(points, "gen_ai.server.time_per_output_token")) == len(first) > 3
    per_operation = Counter[str]()
    for point in duration:
        per_operation[point.attributes["gen_ai.operation.name"]] += point.count
    assert per_operation["text_completion"] == 7
    assert per_operation["embeddings"] == 1
    (failed,) = of(duration, "gen_ai.server.request.duration", error__type="500")
    assert failed.count == 1
    bounds = {p.metric: p.bounds for p in points}
    assert bounds == {
        "gen_ai.client.token.usage": sink.TOKEN_BOUNDS,
        "gen_ai.server.request.duration": sink.DURATION_BOUNDS,
        "gen_ai.server.time_to_first_token": sink.FIRST_TOKEN_BOUNDS,
        "gen_ai.server.time_per_output_token": sink.PER_TOKEN_BOUNDS,
    }
    for point in points:
        assert sum(point.buckets) == point.count
        assert point.attributes["gen_ai.provider.name"] == "vllm"
        assert point.attributes["server.port"] == backend.port
        assert point.resource["service.name"] == "gatehouse"
        assert re.fullmatch(r".+:\d+/accesslog-[01]", point.resource["service.instance.id"])


@pytest.mark.slow
def test_without_a_receiver_requests_go_on_and_one_line_says_so(backend: FakeVllm, tmp_path: Path) -> None:
    port = free_port()
    tracing = {"otlp_endpoint": f"http://127.0.0.1:{port}", "sample": 1, "metrics_interval_s": 1}
    with running_gateway(tmp_path, {**short_form(backend), "tracing": tracing}) as gateway:
        for _ in range(6):
            assert chat(gateway, {}).status_code == 200
        until(lambda: complaints(gateway), 15)
        time.sleep(6)  # some more exports fail
        workers = [json.loads(line)["process"] for line in complaints(gateway)]
        assert workers
        assert len(workers) == len(set(workers))
        assert len(gateway.records(6)) >= 6
        with otlp_receiver(port) as receiver:
            until(lambda: requests(receiver) == 6, 20)  # nothing counted meanwhile is lost
        assert gateway.stop() == 0


def complaints(gateway: RunningGateway) -> list[str]:
    lines = [line for path in gateway.logs("app_*.log") for line in path.read_text().splitlines()]
    return [line for line in lines if "metrics can't be sent" in line or "opentelemetry" in line]
