"""Limits on tokens, concurrency and money, settled by the model server's own counts; with each store."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx2 as httpx
import openai
import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.fakes.script import Script
from testkit.redis_server import redis_server
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until

CHAT = "/v1/chat/completions"
MODEL = "m"
LIMITS: dict[str, dict[str, Any]] = {
    "returned": {"tokens_per_hour": 10_000},
    "charged": {"tokens_per_hour": 100_000},
    "spent": {"tokens_per_minute": 300},
    "parallel": {"tokens_per_minute": 1000},
    "pair": {"concurrent_requests": 2},
    "ghost": {"concurrent_requests": 1},
    "leaving": {"concurrent_requests": 1},
    "long": {"concurrent_requests": 1},
    "searching": {"requests_per_hour": 100},
    "modelled": {"requests_per_minute": 100, "models": {MODEL: {"requests_per_minute": 1}}},
    "keyed": {},
    "shadow": {"requests_per_minute": 1, "shadow": True},
    "budget": {"budget_usd_per_month": 0.002},  # a thousand tokens of output
    "failing": {"tokens_per_hour": 10_000},
    "killed": {"concurrent_requests": 1},
}
"""A tier for each test, with users of its own: what one test spends is missing to no other."""


def alice(tier: str) -> str:
    """The key of a user of `tier`."""
    return f"sk-llm-limits-alice-{tier}"


def bob(tier: str) -> str:
    """The key of another."""
    return f"sk-llm-limits-bob-{tier}"


def keys() -> dict[str, dict[str, Any]]:
    """Two users a tier; where a team is the matter they are of one, and where keys are, they are one."""
    found: dict[str, dict[str, Any]] = {}
    for tier in LIMITS:
        found[alice(tier)] = {"user_id": f"alice-{tier}", "tier": tier}
        found[bob(tier)] = {"user_id": f"bob-{tier}", "tier": tier}
    for key in (alice("searching"), bob("searching")):
        found[key]["team"] = "search"
    found[alice("keyed")]["limits"] = {"requests_per_minute": 1}
    found[bob("keyed")]["user_id"] = found[alice("keyed")]["user_id"]
    return found


@pytest.fixture(scope="module", params=[pytest.param("memory", marks=pytest.mark.slow), "redis"])
def gateway(
    request: pytest.FixtureRequest, backend: FakeVllm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    price = {"input": 1.0, "output": 2.0}
    config: dict[str, Any] = {
        "models": {MODEL: {"backends": [{"url": f"{backend.url}/v1"}], "price_per_million_tokens": price}},
        "default_model": MODEL,
        "api_keys": keys(),
        "rate_limits": LIMITS,
        "teams": {"search": {"limits": {"requests_per_minute": 3}}},
    }
    with ExitStack() as stack:
        if request.param == "redis":
            # Exact even where Redis itself has to wait for a processor.
            config["redis"] = {"url": stack.enter_context(redis_server()).url, "timeout_ms": 250}
        yield stack.enter_context(running_gateway(tmp_path_factory.mktemp("limits"), config))


@pytest.fixture(autouse=True)
def script(backend: FakeVllm) -> Iterator[None]:
    yield
    backend.script = Script()


def chat(gateway: RunningGateway, key: str, tokens: int, **extra: Any) -> httpx.Response:
    """A call whose answer has exactly so many tokens."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "a b c"}], "max_tokens": tokens, **extra}
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(gateway.url + CHAT, json={"ignore_eos": True, **body}, headers=headers, timeout=30)


def remaining(answer: httpx.Response) -> int:
    return int(answer.headers["x-ratelimit-remaining-tokens"])


def test_what_was_reserved_and_not_used_is_given_back(gateway: RunningGateway) -> None:
    key = alice("returned")
    first = chat(gateway, key, 4000, ignore_eos=False)  # the answer is short, the reservation is not
    assert first.status_code == 200
    assert first.headers["x-ratelimit-limit-tokens"] == "10000"
    assert remaining(first) < 6000
    used = first.json()["usage"]["total_tokens"]
    assert used < 100
    gateway.record(first.headers["x-request-id"])

    def settled() -> bool:
        second = chat(gateway, key, 1, max_tokens=1, stream=False)
        return remaining(second) > 9_000

    until(settled, 3, "the return of the rest")


def test_tokens_are_charged_as_the_model_server_counts_them(gateway: RunningGateway) -> None:
    key = alice("charged")
    answers = [chat(gateway, key, 50) for _ in range(5)]
    used = sum(answer.json()["usage"]["total_tokens"] for answer in answers)

    def guessed() -> int:
        """What the next request is charged for as long as it runs, once those before it are settled."""
        nonlocal used
        probe = chat(gateway, key, 1)
        guess = 100_000 - used - remaining(probe)
        used += probe.json()["usage"]["total_tokens"]
        return guess

    until(lambda: 0 < guessed() < 60, 3)


def test_a_spent_token_limit_is_429_with_its_name(gateway: RunningGateway) -> None:
    key = alice("spent")
    assert chat(gateway, key, 240).status_code == 200
    refused = chat(gateway, key, 240)
    assert refused.status_code == 429
    message = refused.json()["error"]["message"]
    assert message.startswith("Rate limit exceeded. Maximum 300 tokens per minute allowed for tier 'spent'.")
    assert refused.headers["x-ratelimit-limit-tokens"] == "300"
    assert int(refused.headers["retry-after"]) > 0
    assert gateway.record(refused.headers["x-request-id"])["limited_by"] == "tokens_per_minute"
    assert chat(gateway, key, 10).status_code == 200, "a smaller request still fits"


def test_parallel_streams_never_spend_more_than_the_limit(gateway: RunningGateway, backend: FakeVllm) -> None:
    key = alice("parallel")
    backend.script = Script(event_delay_s=0.001)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: chat(gateway, key, 400, stream=True), range(20)))
    admitted = [answer for answer in answers if answer.status_code == 200]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert all(answer.text.rstrip().endswith("data: [DONE]") for answer in admitted), "none of them was cut"
    records = [gateway.record(answer.headers["x-request-id"]) for answer in admitted]
    assert sum(record["prompt_tokens"] + record["completion_tokens"] for record in records) <= 1000


def test_only_so_many_requests_run_at_a_time(gateway: RunningGateway, backend: FakeVllm) -> None:
    key = alice("pair")
    backend.script = Script(event_delay_s=0.02)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: chat(gateway, key, 50, stream=True), range(6)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) == 4
    message = refused[0].json()["error"]["message"]
    assert message.startswith("Rate limit exceeded. Maximum 2 concurrent requests allowed for tier 'pair'.")
    assert chat(gateway, key, 5).status_code == 200


def test_one_call_after_the_other_never_meets_its_own_ghost(gateway: RunningGateway) -> None:
    key = alice("ghost")
    statuses = [chat(gateway, key, 1, stream=bool(i % 2)).status_code for i in range(60)]
    assert statuses == [200] * 60


def test_a_client_that_leaves_gives_its_lease_back(gateway: RunningGateway, backend: FakeVllm) -> None:
    key = alice("leaving")
    backend.script = Script(event_delay_s=0.05)
    body = {"model": MODEL, "messages": [], "max_tokens": 500, "ignore_eos": True, "stream": True}
    body["messages"] = [{"role": "user", "content": "x"}]
    with httpx.stream("POST", gateway.url + CHAT, json=body, headers={"x-api-key": key}) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert chat(gateway, key, 1).status_code == 429
    backend.script = Script()
    until(lambda: chat(gateway, key, 1).status_code == 200, 3, "the return of the lease")


@pytest.mark.slow
def test_a_long_stream_keeps_its_lease_by_showing_signs_of_life(gateway: RunningGateway, backend: FakeVllm) -> None:
    key = alice("long")
    backend.script = Script(event_delay_s=0.1)
    stream = threading.Thread(target=lambda: chat(gateway, key, 180, stream=True))  # 18 s: longer than a lease
    stream.start()
    time.sleep(16.5)
    assert chat(gateway, key, 1).status_code == 429
    stream.join()
    backend.script = Script()
    until(lambda: chat(gateway, key, 1).status_code == 200, 3, "the return of the lease")


def test_teams_share_a_limit_and_a_refusal_consumes_nothing_of_the_others(gateway: RunningGateway) -> None:
    one, other = alice("searching"), bob("searching")
    statuses = [chat(gateway, key, 1).status_code for key in (one, other, one)]
    refused = chat(gateway, other, 1)
    assert (statuses, refused.status_code) == ([200, 200, 200], 429)
    assert "Maximum 3 requests per minute allowed for team 'search'." in refused.json()["error"]["message"]
    assert refused.headers["x-ratelimit-remaining-hour"] == "99", "bob's own limit lost one request, not two"


def test_a_model_may_have_limits_of_its_own(gateway: RunningGateway) -> None:
    key = alice("modelled")
    assert [chat(gateway, key, 1).status_code for _ in range(2)] == [200, 429]


def test_a_key_may_have_limits_of_its_own(gateway: RunningGateway) -> None:
    laptop, phone = alice("keyed"), bob("keyed")
    assert [chat(gateway, key, 1).status_code for key in (laptop, laptop, phone)] == [200, 429, 200]


def test_shadow_limits_count_and_never_refuse(gateway: RunningGateway) -> None:
    key = alice("shadow")
    assert [chat(gateway, key, 1).status_code for _ in range(3)] == [200, 200, 200]
    line = 'api_rate_limit_decisions_total{limit="requests_per_minute",result="shadow_limited"} 2.0'
    until(lambda: line in gateway.metrics(), 5, "the count of decisions")


def test_a_spent_budget_is_insufficient_quota_that_no_client_retries(gateway: RunningGateway) -> None:
    key = alice("budget")
    answers = [chat(gateway, key, 400) for _ in range(2)]
    record = gateway.record(answers[0].headers["x-request-id"])
    usage = answers[0].json()["usage"]
    assert record["cost_usd"] == pytest.approx((usage["prompt_tokens"] + 2 * usage["completion_tokens"]) / 1e6)
    until(lambda: gateway.metric("api_cost_usd_total", model="m", user="alice-budget") > 0, 5, "its cost as a metric")
    refused = chat(gateway, key, 400)
    assert [answer.status_code for answer in (*answers, refused)] == [200, 200, 429]
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
    assert error["message"].startswith("Budget spent. Maximum 0.002 USD per month allowed for tier 'budget'.")
    assert refused.headers["x-should-retry"] == "false"
    assert int(refused.headers["retry-after"]) > 3600
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=2)
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}], max_tokens=400)
    time.sleep(0.5)
    assert len([record for record in gateway.records() if "OpenAI" in (record["user_agent"] or "")]) == 1


def test_nothing_is_charged_for_what_the_model_server_refused(gateway: RunningGateway, backend: FakeVllm) -> None:
    key = alice("failing")
    backend.script = Script(status=400, headers={"content-type": "application/json"}, body=b'{"error":{}}')
    failed = chat(gateway, key, 5000)
    backend.script = Script()
    gateway.record(failed.headers["x-request-id"])
    until(lambda: remaining(chat(gateway, key, 1)) > 9_000, 3, "the return of what a failed request had reserved")


@pytest.mark.parametrize("victim", ["accesslog-0", pytest.param("accesslog-1", marks=pytest.mark.slow)])
def test_a_killed_receiver_leaves_no_lease_behind_for_long(
    gateway: RunningGateway, backend: FakeVllm, victim: str
) -> None:
    key = alice("killed")
    backend.script = Script(event_delay_s=0.02)
    stream = threading.Thread(target=lambda: chat(gateway, key, 50, stream=True))
    stream.start()
    time.sleep(0.9)
    os.kill(gateway.children()[victim], signal.SIGKILL)
    stream.join()
    backend.script = Script()
    until(lambda: chat(gateway, key, 1).status_code == 200, 18, "the end of the lease")
