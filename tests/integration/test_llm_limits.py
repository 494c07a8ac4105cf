"""Limits on tokens, concurrency and money, settled by the model server's own counts; with each store."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest

from tests.fakes.fake_vllm import FakeVllm
from tests.fakes.script import Script
from tests.redis_server import redis_server
from tests.running_gateway import RunningGateway, running_gateway
from tests.waiting import until

CHAT = "/v1/chat/completions"
ALICE, BOB = "sk-llm-limits-alice-1", "sk-llm-limits-bob-001"
Start = Callable[..., RunningGateway]


@pytest.fixture(params=[pytest.param("memory", marks=pytest.mark.slow), "redis"])
def start(request: pytest.FixtureRequest, backend: FakeVllm, tmp_path: Path) -> Iterator[Start]:
    """Starts a gateway with the given limits for the only tier, `paid`."""
    with ExitStack() as stack:

        def begin(limits: dict[str, Any], **sections: Any) -> RunningGateway:
            price = {"input": 1.0, "output": 2.0}
            config: dict[str, Any] = {
                "models": {"m": {"backends": [{"url": f"{backend.url}/v1"}], "price_per_million_tokens": price}},
                "default_model": "m",
                "api_keys": {
                    ALICE: {"user_id": "alice", "tier": "paid", "team": "search", "name": "laptop"},
                    BOB: {"user_id": "bob", "tier": "paid", "team": "search"},
                },
                "rate_limits": {"paid": limits},
                **sections,
            }
            if request.param == "redis":
                # Exact even where Redis itself has to wait for a processor.
                config["redis"] = {"url": stack.enter_context(redis_server()).url, "timeout_ms": 250}
            return stack.enter_context(running_gateway(tmp_path, config))

        yield begin
    backend.script = Script()


def chat(gateway: RunningGateway, tokens: int, key: str = ALICE, **extra: Any) -> httpx.Response:
    """A call whose answer has exactly so many tokens."""
    body = {"model": "m", "messages": [{"role": "user", "content": "a b c"}], "max_tokens": tokens, "ignore_eos": True}
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(gateway.url + CHAT, json={**body, **extra}, headers=headers, timeout=30)


def remaining(answer: httpx.Response) -> int:
    return int(answer.headers["x-ratelimit-remaining-tokens"])


def test_what_was_reserved_and_not_used_is_given_back(start: Start) -> None:
    gateway = start({"tokens_per_hour": 10_000})
    first = chat(gateway, 4000, ignore_eos=False)  # the answer is short, the reservation is not
    assert first.status_code == 200
    assert first.headers["x-ratelimit-limit-tokens"] == "10000"
    assert remaining(first) < 6000
    used = first.json()["usage"]["total_tokens"]
    assert used < 100
    gateway.record(first.headers["x-request-id"])

    def settled() -> bool:
        second = chat(gateway, 1, max_tokens=1, stream=False)
        return remaining(second) > 9_000

    until(settled, 3, "nothing was given back")


def test_tokens_are_charged_as_the_model_server_counts_them(start: Start) -> None:
    gateway = start({"tokens_per_hour": 100_000})
    answers = [chat(gateway, 50) for _ in range(5)]
    used = sum(answer.json()["usage"]["total_tokens"] for answer in answers)

    def guessed() -> int:
        """What the next request is charged for as long as it runs, once those before it are settled."""
        nonlocal used
        probe = chat(gateway, 1)
        guess = 100_000 - used - remaining(probe)
        used += probe.json()["usage"]["total_tokens"]
        return guess

    until(lambda: 0 < guessed() < 60, 3)


def test_a_spent_token_limit_is_429_with_its_name(start: Start) -> None:
    gateway = start({"tokens_per_minute": 300})
    assert chat(gateway, 240).status_code == 200
    refused = chat(gateway, 240)
    assert refused.status_code == 429
    message = refused.json()["error"]["message"]
    assert message.startswith("Rate limit exceeded. Maximum 300 tokens per minute allowed for tier 'paid'.")
    assert refused.headers["x-ratelimit-limit-tokens"] == "300"
    assert int(refused.headers["retry-after"]) > 0
    assert gateway.record(refused.headers["x-request-id"])["limited_by"] == "tokens_per_minute"
    assert chat(gateway, 10).status_code == 200, "a smaller request still fits"


def test_parallel_streams_never_spend_more_than_the_limit(start: Start, backend: FakeVllm) -> None:
    gateway = start({"tokens_per_minute": 1000})
    backend.script = Script(event_delay_s=0.001)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: chat(gateway, 400, stream=True), range(20)))
    admitted = [answer for answer in answers if answer.status_code == 200]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert all(answer.text.rstrip().endswith("data: [DONE]") for answer in admitted), "none of them was cut"
    records = [gateway.record(answer.headers["x-request-id"]) for answer in admitted]
    assert sum(record["prompt_tokens"] + record["completion_tokens"] for record in records) <= 1000


def test_only_so_many_requests_run_at_a_time(start: Start, backend: FakeVllm) -> None:
    gateway = start({"concurrent_requests": 2})
    backend.script = Script(event_delay_s=0.02)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: chat(gateway, 50, stream=True), range(6)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) == 4
    message = refused[0].json()["error"]["message"]
    assert message.startswith("Rate limit exceeded. Maximum 2 concurrent requests allowed for tier 'paid'.")
    assert chat(gateway, 5).status_code == 200


def test_one_call_after_the_other_never_meets_its_own_ghost(start: Start) -> None:
    gateway = start({"concurrent_requests": 1})
    statuses = [chat(gateway, 1, stream=bool(i % 2)).status_code for i in range(60)]
    assert statuses == [200] * 60


def test_a_client_that_leaves_gives_its_lease_back(start: Start, backend: FakeVllm) -> None:
    gateway = start({"concurrent_requests": 1})
    backend.script = Script(event_delay_s=0.05)
    body = {"model": "m", "messages": [], "max_tokens": 500, "ignore_eos": True, "stream": True}
    body["messages"] = [{"role": "user", "content": "x"}]
    with httpx.stream("POST", gateway.url + CHAT, json=body, headers={"x-api-key": ALICE}) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert chat(gateway, 1).status_code == 429
    backend.script = Script()
    until(lambda: chat(gateway, 1).status_code == 200, 3, "the lease is still held")


@pytest.mark.slow
def test_a_long_stream_keeps_its_lease_by_showing_signs_of_life(start: Start, backend: FakeVllm) -> None:
    gateway = start({"concurrent_requests": 1})
    backend.script = Script(event_delay_s=0.1)
    stream = threading.Thread(target=lambda: chat(gateway, 180, stream=True))  # 18 s: longer than a lease
    stream.start()
    time.sleep(16.5)
    assert chat(gateway, 1).status_code == 429
    stream.join()
    backend.script = Script()
    until(lambda: chat(gateway, 1).status_code == 200, 3, "the lease is still held")


def test_teams_share_a_limit_and_a_refusal_consumes_nothing_of_the_others(start: Start) -> None:
    limits = {"requests_per_hour": 100}
    gateway = start(limits, teams={"search": {"limits": {"requests_per_minute": 3}}})
    statuses = [chat(gateway, 1, key).status_code for key in (ALICE, BOB, ALICE)]
    refused = chat(gateway, 1, BOB)
    assert (statuses, refused.status_code) == ([200, 200, 200], 429)
    assert "Maximum 3 requests per minute allowed for team 'search'." in refused.json()["error"]["message"]
    assert refused.headers["x-ratelimit-remaining-hour"] == "99", "bob's own limit lost one request, not two"


def test_a_model_may_have_limits_of_its_own(start: Start) -> None:
    gateway = start({"requests_per_minute": 100, "models": {"m": {"requests_per_minute": 1}}})
    assert [chat(gateway, 1).status_code for _ in range(2)] == [200, 429]


def test_a_key_may_have_limits_of_its_own(start: Start) -> None:
    keys = {
        ALICE: {"user_id": "alice", "tier": "paid", "name": "laptop", "limits": {"requests_per_minute": 1}},
        BOB: {"user_id": "alice", "tier": "paid", "name": "phone"},
    }
    gateway = start({}, api_keys=keys)
    assert [chat(gateway, 1, key).status_code for key in (ALICE, ALICE, BOB)] == [200, 429, 200]


def test_shadow_limits_count_and_never_refuse(start: Start) -> None:
    gateway = start({"requests_per_minute": 1, "shadow": True})
    assert [chat(gateway, 1).status_code for _ in range(3)] == [200, 200, 200]
    line = 'api_rate_limit_decisions_total{limit="requests_per_minute",result="shadow_limited"} 2.0'
    assert line in gateway.metrics()


def test_a_spent_budget_is_insufficient_quota_that_no_client_retries(start: Start) -> None:
    gateway = start({"budget_usd_per_month": 0.002})  # a thousand tokens of output
    answers = [chat(gateway, 400) for _ in range(2)]
    record = gateway.record(answers[0].headers["x-request-id"])
    usage = answers[0].json()["usage"]
    assert record["cost_usd"] == pytest.approx((usage["prompt_tokens"] + 2 * usage["completion_tokens"]) / 1e6)
    assert 'api_cost_usd_total{model="m",user="alice"}' in gateway.metrics()
    refused = chat(gateway, 400)
    assert [answer.status_code for answer in (*answers, refused)] == [200, 200, 429]
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
    assert error["message"].startswith("Budget spent. Maximum 0.002 USD per month allowed for tier 'paid'.")
    assert refused.headers["x-should-retry"] == "false"
    assert int(refused.headers["retry-after"]) > 3600
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=ALICE, max_retries=2)
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], max_tokens=400)
    time.sleep(0.5)
    assert len([record for record in gateway.records() if "OpenAI" in (record["user_agent"] or "")]) == 1


def test_nothing_is_charged_for_what_the_model_server_refused(start: Start, backend: FakeVllm) -> None:
    gateway = start({"tokens_per_hour": 10_000})
    backend.script = Script(status=400, headers={"content-type": "application/json"}, body=b'{"error":{}}')
    failed = chat(gateway, 5000)
    backend.script = Script()
    gateway.record(failed.headers["x-request-id"])
    until(lambda: remaining(chat(gateway, 1)) > 9_000, 3, "the reservation of a failed request is still charged")


@pytest.mark.parametrize("victim", ["accesslog-0", pytest.param("accesslog-1", marks=pytest.mark.slow)])
def test_a_killed_receiver_leaves_no_lease_behind_for_long(start: Start, backend: FakeVllm, victim: str) -> None:
    gateway = start({"concurrent_requests": 1})
    backend.script = Script(event_delay_s=0.02)
    stream = threading.Thread(target=lambda: chat(gateway, 50, stream=True))
    stream.start()
    time.sleep(0.9)
    os.kill(gateway.children()[victim], signal.SIGKILL)
    stream.join()
    backend.script = Script()
    until(lambda: chat(gateway, 1).status_code == 200, 18, "a lease outlived its time")
