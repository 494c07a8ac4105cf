"""F20 to F23: model servers that are down, die, stall, and clients that leave."""

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx2 as httpx
import openai
import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.fakes.replica import Replica
from testkit.fakes.script import Script
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until

CHAT = "/v1/chat/completions"
KEY = "sk-faults-1"
IDLE_S = 2
LONG = {"max_tokens": 200, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def backend() -> Iterator[FakeVllm]:
    with FakeVllm(("m",)) as fake:
        yield fake


@pytest.fixture(scope="module")
def process() -> Iterator[Replica]:
    with Replica() as replica:
        yield replica


@pytest.fixture(scope="module")
def gateway(backend: FakeVllm, process: Replica, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    config = {
        "server": {"stream_idle_timeout_s": IDLE_S},
        "models": {
            "m": {"backends": [{"url": backend.url}]},
            "process": {"backends": [{"url": process.url}]},
        },
        "rate_limits": {"one": {"concurrent_requests": 1}},
        "api_keys": {KEY: {"user_id": "alice", "tier": "one"}},
    }
    with running_gateway(tmp_path_factory.mktemp("f20"), config) as running:
        yield running


@pytest.fixture(autouse=True)
def healed(backend: FakeVllm) -> Iterator[None]:
    yield
    backend.script = Script()
    backend.up()


@pytest.fixture
def client(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with gateway.client(headers={"authorization": f"Bearer {KEY}"}) as http:
        until(lambda: ask(http).status_code == 200)
        yield http


def ask(client: httpx.Client, model: str = "m") -> httpx.Response:
    return client.post(CHAT, json={"model": model, "messages": [{"role": "user", "content": "hi"}]})


def body(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "one two three"}], **LONG, **fields}


def cut_off(client: httpx.Client) -> tuple[str, bytes]:
    """The id of a stream, and what came of it before its connection was broken off."""
    received = b""
    with client.stream("POST", CHAT, json=body("m")) as answer:
        request_id = answer.headers["x-request-id"]
        with suppress(httpx.HTTPError):
            for part in answer.iter_raw():
                received += part
            pytest.fail("the stream ended as if it were whole")
    return request_id, received


def test_f20_a_model_server_that_is_down_is_503_and_back_within_a_second(
    gateway: RunningGateway, client: httpx.Client, backend: FakeVllm
) -> None:
    backend.down()
    began = time.monotonic()
    seen = []
    while time.monotonic() < began + 3:  # refused at first, then known to be down
        seen.append(ask(client))
        time.sleep(0.2)
    assert {answer.status_code for answer in seen} == {503}
    assert {answer.json()["error"]["code"] for answer in seen} == {"backend_unavailable"}
    assert {answer.headers["retry-after"] for answer in seen} == {"1"}
    flags = [gateway.record(answer.headers["x-request-id"])["flags"] for answer in (seen[0], seen[-1])]
    assert "UF" in flags[0]
    assert "UH" in flags[1]
    backend.up()
    healthy = time.monotonic()
    until(lambda: ask(client).status_code == 200, 5)
    assert time.monotonic() - healthy < 1.5  # 1 s promised; the rest is this machine's


def test_f21_a_stream_whose_server_is_killed_ends_without_an_end(
    gateway: RunningGateway, client: httpx.Client, process: Replica
) -> None:
    sdk = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0)
    until(lambda: ask(client, "process").status_code == 200)
    asked = body("process")
    asked["extra_body"] = {"ignore_eos": asked.pop("ignore_eos")}
    answer = sdk.chat.completions.with_raw_response.create(**asked)
    request_id, stream = answer.headers["x-request-id"], answer.parse()
    chunks = [next(stream) for _ in range(5)]
    process.kill()
    with pytest.raises((openai.APIError, httpx.HTTPError)):
        chunks.extend(stream)
    assert not any(choice.finish_reason for chunk in chunks for choice in chunk.choices)
    record = gateway.record(request_id)
    assert (record["status"], record["aborted"], record["attempts"]) == (200, True, 1)
    assert 0 < record["completion_tokens"] <= len(chunks) + 1
    process.start()
    until(lambda: ask(client, "process").status_code == 200)


def test_f21_no_byte_is_added_to_a_stream_that_is_cut(client: httpx.Client, backend: FakeVllm) -> None:
    backend.script = Script(die_after=4)
    backend.requests.clear()
    _, received = cut_off(client)
    assert received.count(b"data: ") == 4
    assert b"[DONE]" not in received
    assert len(backend.requests) == 1


def test_f22_a_stream_that_stalls_is_closed_and_its_slot_is_free(
    gateway: RunningGateway, client: httpx.Client, backend: FakeVllm
) -> None:
    backend.script = Script(stall_after=3)
    began = time.monotonic()
    request_id, received = cut_off(client)
    assert IDLE_S - 0.5 < time.monotonic() - began < IDLE_S + 5
    assert b"[DONE]" not in received
    backend.script = Script()
    assert ask(client).status_code == 200
    until(lambda: backend.running == 0)
    record = gateway.record(request_id)
    assert (record["aborted"], "SI" in record["flags"]) == (True, True)


def test_f22_a_server_that_says_nothing_at_all_is_504(client: httpx.Client, backend: FakeVllm) -> None:
    backend.script = Script(headers_after_s=30)
    answer = ask(client)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    assert answer.headers["retry-after"] == "1"


def test_f23_what_nobody_waits_for_is_aborted_within_two_seconds(
    gateway: RunningGateway, client: httpx.Client, backend: FakeVllm
) -> None:
    backend.script = Script(event_delay_s=0.05)
    before = backend.aborted
    with client.stream("POST", CHAT, json=body("m")) as answer:
        request_id, parts = answer.headers["x-request-id"], answer.iter_raw()
        for _ in range(5):
            next(parts)
    left = time.monotonic()
    until(lambda: backend.aborted == before + 1)
    assert time.monotonic() - left < 2
    record = gateway.record(request_id)
    assert (record["aborted"], "DC" in record["flags"]) == (True, True)
    assert 0 < record["completion_tokens"] < LONG["max_tokens"]
