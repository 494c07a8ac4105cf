"""What model servers count is what is recorded, however it is written, cut or broken off; and clients see nothing of it
that they have not asked for.
"""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx2 as httpx
import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.fakes.script import Script
from testkit.running_gateway import RunningGateway, running_gateway
from tests.integration.conftest import MODEL, PREMIUM, short_form

CHAT = "/v1/chat/completions"
STREAM = {"content-type": "text/event-stream; charset=utf-8"}
JSON = {"content-type": "application/json"}
LONG = "one two three four five six seven eight nine ten " * 20
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def gateway(backend: FakeVllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    config = {**short_form(backend), "rate_limits": {name: {} for name in ("premium", "standard", "free", "unlimited")}}
    with running_gateway(tmp_path_factory.mktemp("exact"), config) as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with gateway.client(headers={"authorization": f"Bearer {PREMIUM}"}) as http:
        yield http


@pytest.fixture
def script(backend: FakeVllm) -> Iterator[FakeVllm]:
    yield backend
    backend.script = Script()


def counts(gateway: RunningGateway, answer: httpx.Response) -> tuple[int | None, int | None, int | None]:
    record = gateway.record(answer.headers["x-request-id"])
    return record["prompt_tokens"], record["completion_tokens"], record["cached_tokens"]


def data(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": ["a b c", "d"]}),
        ("/v1/rerank", {"query": "a b", "documents": ["a b c", "d e"]}),
        ("/v1/score", {"text_1": "a b", "text_2": ["a b c", "d e"]}),
    ],
)
def test_what_only_reads_is_counted_as_read(
    gateway: RunningGateway, client: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    answer = client.post(path, json={"model": MODEL, **body})
    usage = answer.json()["usage"]
    prompt, completion, _ = counts(gateway, answer)
    assert prompt == usage["prompt_tokens"] == usage["total_tokens"] > 0
    assert not completion


USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 40,
    "total_tokens": 140,
    "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 25, "audio_tokens": 2, "accepted_prediction_tokens": 1},
}
RESPONSES_USAGE = {
    "input_tokens": 100,
    "input_tokens_details": {"cached_tokens": 64},
    "output_tokens": 40,
    "output_tokens_details": {"reasoning_tokens": 25},
    "total_tokens": 140,
}
MESSAGES_USAGE = {
    "input_tokens": 30,
    "cache_read_input_tokens": 64,
    "cache_creation_input_tokens": 6,
    "output_tokens": 40,
    "cache_creation": {"ephemeral_5m_input_tokens": 6},
}
DIALECTS = [
    (CHAT, USAGE),
    ("/v1/completions", USAGE),
    ("/v1/responses", RESPONSES_USAGE),
    ("/v1/messages", MESSAGES_USAGE),
]


@pytest.mark.parametrize(("path", "usage"), DIALECTS)
def test_cached_and_reasoning_tokens_are_parts_and_never_added(
    gateway: RunningGateway, client: httpx.Client, script: FakeVllm, path: str, usage: dict[str, Any]
) -> None:
    script.script = Script(status=200, headers=JSON, body=json.dumps({"id": "1", "usage": usage}).encode())
    assert counts(gateway, client.post(path, json={"model": MODEL})) == (100, 40, 64)


STREAMS = [
    (CHAT, ({"choices": [{"delta": {"content": "a"}}], "usage": USAGE}, {"choices": [], "usage": USAGE})),
    ("/v1/completions", ({"choices": [{"text": "a"}]}, {"choices": [], "usage": USAGE})),
    (
        "/v1/responses",
        (
            {"type": "response.created", "response": {"usage": None}},
            {"type": "response.completed", "response": {"usage": RESPONSES_USAGE}},
        ),
    ),
    (
        "/v1/messages",
        (
            {"type": "message_start", "message": {"usage": {**MESSAGES_USAGE, "output_tokens": 1}}},
            {"type": "message_delta", "usage": {"output_tokens": 40}},
        ),
    ),
]


@pytest.mark.parametrize(("path", "events"), STREAMS)
def test_so_are_those_of_streams(
    gateway: RunningGateway, client: httpx.Client, script: FakeVllm, path: str, events: tuple[dict[str, Any], ...]
) -> None:
    script.script = Script(status=200, headers=STREAM, body=data(*events))
    assert counts(gateway, client.post(path, json={"model": MODEL, "stream": True})) == (100, 40, 64)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_an_event_of_several_data_lines_is_one(
    gateway: RunningGateway, client: httpx.Client, script: FakeVllm, newline: str
) -> None:
    event = 'event: x\nid: 1\ndata: {"choices":[{"delta":{"content":"a"}}],\ndata: "usage":{"prompt_tokens":3,\n'
    event += 'data: "completion_tokens":4}}\n\ndata: [DONE]\n\n'
    script.script = Script(status=200, headers=STREAM, body=event.replace("\n", newline).encode())
    answer = client.post(CHAT, json={"model": MODEL, "stream": True})
    assert counts(gateway, answer)[:2] == (3, 4)


@pytest.mark.parametrize("size", [MIB, 3 * MIB, 9 * MIB])
@pytest.mark.parametrize("crlf", [False, True])
def test_events_of_megabytes_are_read_and_arrive_whole(
    gateway: RunningGateway, client: httpx.Client, script: FakeVllm, size: int, crlf: bool
) -> None:
    script.script = Script(big_event=size, big_event_at=3, pieces=7, crlf=crlf)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "a b"}], "stream": True, "max_tokens": 5}
    answer = client.post(CHAT, json=body)
    assert answer.text.count("x" * size) == 1
    assert '"usage"' not in answer.text
    assert answer.text.rstrip().endswith("data: [DONE]")
    assert counts(gateway, answer)[1] == 5


def test_a_response_completed_of_megabytes_is_counted(
    gateway: RunningGateway, client: httpx.Client, script: FakeVllm
) -> None:
    completed = {"type": "response.completed", "response": {"output": "x" * 2 * MIB, "usage": RESPONSES_USAGE}}
    script.script = Script(status=200, headers=STREAM, body=data(completed))
    assert counts(gateway, client.post("/v1/responses", json={"model": MODEL, "stream": True})) == (100, 40, 64)


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/messages"])
@pytest.mark.parametrize("end", ["client", "backend"])
def test_what_breaks_off_is_charged_as_far_as_it_came(
    gateway: RunningGateway, client: httpx.Client, script: FakeVllm, path: str, end: str
) -> None:
    script.script = Script(event_delay_s=0.02, die_after=8 if end == "backend" else None)
    prompt = {"prompt": LONG} if path == "/v1/completions" else {"messages": [{"role": "user", "content": LONG}]}
    with (
        client.stream("POST", path, json={"model": MODEL, "stream": True, "max_tokens": 400, **prompt}) as answer,
        suppress(httpx.RemoteProtocolError),
    ):
        for number, _ in enumerate(line for line in answer.iter_lines() if line.startswith("data:")):
            if end == "client" and number == 6:
                break
    record = gateway.record(answer.headers["x-request-id"])
    assert record["aborted"] is True
    assert record["prompt_tokens"] > 0
    if path != "/v1/messages":  # which counts its output at the end only
        assert 3 <= record["completion_tokens"] <= 10


def test_the_periodic_entries_of_a_long_stream_are_no_records(
    gateway: RunningGateway, client: httpx.Client, script: FakeVllm
) -> None:
    script.script = Script(event_delay_s=0.5)
    began = time.monotonic()
    body = {"model": "long-stream", "messages": [{"role": "user", "content": LONG}], "stream": True, "max_tokens": 11}
    answer = client.post(CHAT, json=body)
    assert time.monotonic() - began > 5.5, "longer than the period of such entries"
    assert counts(gateway, answer)[1] == 11
    time.sleep(0.3)
    assert sum(each["request_id"] == answer.headers["x-request-id"] for each in gateway.records()) == 1
    lines = [line for line in gateway.metrics().splitlines() if 'type="completion"' in line and "long-stream" in line]
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["11.0"]
