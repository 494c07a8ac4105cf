"""Bytes, streams and identities between clients and the model server."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise

import httpx2 as httpx
import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from testkit.fakes.fake_vllm import FakeVllm
from testkit.fakes.script import Script
from testkit.running_gateway import RunningGateway
from testkit.waiting import until
from tests.integration.conftest import LIMITED, MODEL, PREMIUM

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "one two three four five"}]


@pytest.fixture(scope="module")
def client(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with gateway.client(headers={"authorization": f"Bearer {PREMIUM}"}) as http:
        yield http


@pytest.fixture(scope="module")
def sdk(gateway: RunningGateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=PREMIUM, max_retries=0)


@pytest.fixture
def script(backend: FakeVllm) -> Iterator[FakeVllm]:
    yield backend
    backend.script = Script()


def test_a_body_of_1_mb_arrives_byte_for_byte(client: httpx.Client, backend: FakeVllm) -> None:
    text = "".join(chr(0x20 + i % 0x5E) for i in range(500_000)) + "é漢🙂" * 60_000
    content = json.dumps(text, ensure_ascii=False)
    head = '{ "seed" :9007199254740993,"model":"m" ,"messages":[{"role":"user","content":'
    body = f'{head}{content}}}], "temperature":1.0}}\n'.encode()
    assert len(body) > 1_000_000
    answer = client.post(CHAT, content=body, headers={"content-type": "application/json; charset=utf-8"})
    assert answer.status_code == 200
    assert backend.requests[-1].body == body


@pytest.mark.parametrize("megabytes", [1.05, 2, 5, 31])
@pytest.mark.parametrize("stream", [False, True])
def test_bodies_up_to_the_limit_pass_every_time(
    client: httpx.Client, script: FakeVllm, megabytes: float, stream: bool
) -> None:
    answer_ = b'{"usage":{"prompt_tokens":1,"completion_tokens":1}}'
    script.script = Script(status=200, headers={"content-type": "application/json"}, body=answer_)
    content = "x" * int(megabytes * 1024 * 1024 - 100)
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": content}], "stream": stream}).encode()
    for _ in range(3):
        answer = client.post(CHAT, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 200, answer.text
        arrived = script.requests.pop().body
        asked = b',"stream_options":{"include_usage":true,"continuous_usage_stats":true}}'
        assert arrived == (body.removesuffix(b"}") + asked if stream else body)


def test_an_answer_arrives_byte_for_byte(client: httpx.Client, script: FakeVllm) -> None:
    theirs = b'{ "odd":1.0, "spacing" : [9007199254740993], "usage": {"prompt_tokens": 3, "completion_tokens": 4} }\n\n'
    script.script = Script(status=200, headers={"content-type": "application/json"}, body=theirs)
    assert client.post(CHAT, json={"model": "m", "messages": MESSAGES}).content == theirs


def test_the_model_server_learns_who_calls_and_never_the_key(client: httpx.Client, backend: FakeVllm) -> None:
    forged = {
        "x-gatehouse-user": "root",
        "X-Gatehouse-Tier": "root",
        "x-gatehouse-anything": "1",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-retry-on": "5xx",
        "x-request-id": "chosen-by-client",
        "x-api-key": PREMIUM,
    }
    answer = client.post(CHAT, json={"model": MODEL, "messages": MESSAGES}, headers=forged)
    assert answer.status_code == 200
    seen = backend.requests[-1].headers
    ours = {name: value for name, value in seen.items() if name.lower().startswith(("x-gatehouse", "x-envoy"))}
    assert ours == {
        "x-gatehouse-user": "dev-team",
        "x-gatehouse-tier": "premium",
        "x-gatehouse-key-id": "dev",
        "x-gatehouse-model": MODEL,
    }
    assert seen["x-request-id"] == answer.headers["x-request-id"] != "chosen-by-client"
    assert PREMIUM not in str(seen)


def test_unary_usage_is_in_the_record_and_the_metrics(gateway: RunningGateway, sdk: openai.OpenAI) -> None:
    model = "metered-in-this-test-alone"
    raw = sdk.chat.completions.with_raw_response.create(model=model, messages=MESSAGES)  # type: ignore[arg-type]
    usage = raw.parse().usage
    assert usage is not None
    record = gateway.record(raw.headers["x-request-id"])
    assert record["prompt_tokens"] == usage.prompt_tokens > 0
    assert record["completion_tokens"] == usage.completion_tokens > 0
    assert record["stream"] is False
    assert (record["user_id"], record["tier"], record["key_id"]) == ("dev-team", "premium", "dev")
    assert (record["model"], record["endpoint"], record["status"]) == (model, CHAT, 200)
    assert _tokens(gateway, model) == {"prompt": usage.prompt_tokens, "completion": usage.completion_tokens}


def _tokens(gateway: RunningGateway, model: str) -> dict[str, float]:
    """`api_tokens_total` of the premium user and `model`, by type."""
    labels = ('user="dev-team"', f'model="{model}"')
    totals = {"prompt": 0.0, "completion": 0.0}
    for line in gateway.metrics().splitlines():
        for kind in totals:
            if line.startswith("api_tokens_total{") and all(part in line for part in (*labels, f'type="{kind}"')):
                totals[kind] += float(line.rsplit(" ", 1)[1])
    return totals


@pytest.mark.parametrize(
    "script_",
    [Script(), Script(pieces=3), Script(crlf=True), Script(big_event=200_000), Script(crlf=True, pieces=5)],
    ids=["plain", "split", "crlf", "big", "crlf-split"],
)
@pytest.mark.parametrize("asks", [False, True])
def test_a_streams_usage_is_counted_and_shown_only_to_who_asked(
    gateway: RunningGateway, client: httpx.Client, script: FakeVllm, script_: Script, asks: bool
) -> None:
    script.script = script_
    body: dict[str, object] = {"model": MODEL, "messages": MESSAGES, "stream": True, "max_tokens": 7}
    if asks:
        body["stream_options"] = {"include_usage": True}
    with client.stream("POST", CHAT, json=body) as answer:
        assert answer.status_code == 200
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    chunks = [ChatCompletionChunk.model_validate_json(event) for event in events]
    final = [chunk for chunk in chunks if not chunk.choices]
    assert len(final) == (1 if asks else 0)
    assert all(chunk.usage is None for chunk in chunks if chunk.choices)
    assert sum(bool(c.choices and c.choices[0].delta.content) for c in chunks) == 7
    record = gateway.record(answer.headers["x-request-id"])
    assert (record["stream"], record["completion_tokens"]) == (True, 7)
    assert record["prompt_tokens"] > 0
    assert record["ttft_ms"] is not None


def test_a_stream_flows_token_by_token(client: httpx.Client, script: FakeVllm) -> None:
    script.script = Script(event_delay_s=0.1)
    arrivals = []
    body = {"model": MODEL, "messages": MESSAGES, "stream": True, "max_tokens": 5}
    with client.stream("POST", CHAT, json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                arrivals.append(time.monotonic())
    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    assert sum(gap > 0.05 for gap in gaps) >= 4, gaps


def test_a_stream_that_the_model_server_breaks_off_is_not_completed(
    gateway: RunningGateway, client: httpx.Client, script: FakeVllm
) -> None:
    script.script = Script(die_after=4)
    received = b""
    body = {"model": MODEL, "messages": MESSAGES, "stream": True, "max_tokens": 30}
    with client.stream("POST", CHAT, json=body) as answer, suppress(httpx.RemoteProtocolError):
        for chunk in answer.iter_raw():
            received += chunk
        pytest.fail("the answer ended as if it were complete")
    assert b"[DONE]" not in received
    record = gateway.record(answer.headers["x-request-id"])
    assert record["completion_tokens"] == 3, "the first event carries the role"
    assert record["aborted"] is True


def test_a_client_that_leaves_ends_the_work_and_is_charged_what_it_got(
    gateway: RunningGateway, client: httpx.Client, script: FakeVllm
) -> None:
    script.script = Script(event_delay_s=0.05)
    gone_before = script.aborted
    body = {"model": MODEL, "messages": MESSAGES, "stream": True, "max_tokens": 500}
    with client.stream("POST", CHAT, json=body) as answer:
        lines = answer.iter_lines()
        for _ in range(9):
            next(lines)
    until(lambda: script.aborted == gone_before + 1, within_s=2)
    record = gateway.record(answer.headers["x-request-id"])
    assert "DC" in record["flags"]
    assert record["aborted"] is True
    assert 0 < record["completion_tokens"] < 100


@pytest.mark.parametrize("endpoint", ["completions", "responses", "messages", "embeddings"])
def test_every_endpoint_is_metered(gateway: RunningGateway, client: httpx.Client, endpoint: str) -> None:
    bodies: dict[str, dict[str, object]] = {
        "completions": {"prompt": "a b c", "max_tokens": 3},
        "responses": {"input": "a b c", "max_output_tokens": 3},
        "messages": {"messages": MESSAGES, "max_tokens": 3},
        "embeddings": {"input": "a b c"},
    }
    answer = client.post(f"/v1/{endpoint}", json={"model": MODEL, **bodies[endpoint]})
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    record = gateway.record(answer.headers["x-request-id"])
    assert record["prompt_tokens"] == usage.get("prompt_tokens", usage.get("input_tokens"))
    if endpoint != "embeddings":
        assert record["completion_tokens"] == usage.get("completion_tokens", usage.get("output_tokens")) > 0


@pytest.mark.parametrize("endpoint", ["responses", "messages"])
def test_streams_of_the_other_dialects_are_metered(
    gateway: RunningGateway, client: httpx.Client, endpoint: str
) -> None:
    body = {"input": "a b c"} if endpoint == "responses" else {"messages": MESSAGES, "max_tokens": 4}
    with client.stream("POST", f"/v1/{endpoint}", json={"model": MODEL, "stream": True, **body}) as answer:
        text = "".join(answer.iter_text())
    counts = [int(part.split(",")[0].split("}")[0]) for part in text.split('"output_tokens":')[1:]]
    record = gateway.record(answer.headers["x-request-id"])
    assert record["completion_tokens"] == counts[-1] > 0
    assert record["prompt_tokens"] > 0


def test_models_shows_what_the_key_may_use(gateway: RunningGateway, sdk: openai.OpenAI) -> None:
    assert MODEL in [model.id for model in sdk.models.list()]
    other = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=LIMITED)
    assert list(other.models.list()) == []
    assert sdk.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("no-such-model")


def test_the_front_page_and_metrics_are_open(gateway: RunningGateway) -> None:
    assert httpx.get(gateway.url).json()["name"].lower() == "gatehouse"
    assert "api_requests_total" in httpx.get(f"{gateway.url}/metrics").text
