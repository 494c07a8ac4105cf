"""Redis comes back empty while a month's budget is spent: it stays spent."""

import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from portal_service.tally.usage_db import UsageDb
from testkit.fakes.fake_vllm import FakeVllm
from testkit.redis_server import redis_server
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until

KEY = "sk-budget-spent-001"
BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}


def chat(gateway: RunningGateway, **other: str) -> httpx.Response:
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=BODY | other, headers={"x-api-key": KEY}, timeout=10)


def config(backend: FakeVllm) -> dict[str, Any]:
    price = {"input": 1000, "output": 1000}
    return {
        "models": {"m": {"backends": [{"url": f"{backend.url}/v1"}], "price_per_million_tokens": price}},
        "api_keys": {KEY: {"user_id": "u", "tier": "t"}},
        "rate_limits": {"t": {"budget_usd_per_month": 0.012}},
    }


def spend(gateway: RunningGateway) -> None:
    """Until it is spent, and not merely reserved."""

    def spent() -> bool:
        first = is_spent(gateway)
        time.sleep(0.3)
        return first and is_spent(gateway)

    until(spent, 15, "a budget that is spent")


def is_spent(gateway: RunningGateway) -> bool:
    answer = chat(gateway)
    return answer.status_code == 429 and answer.json()["error"]["code"] == "insufficient_quota"


def tallied(gateway: RunningGateway) -> bool:
    with UsageDb(gateway.directory / "logs" / "tally.sqlite").reading() as book:
        (cost,) = book.execute("SELECT sum(cost_nano_usd) FROM days").fetchone()
    return cost == sum(round((record["cost_usd"] or 0) * 1e9) for record in gateway.records())


def test_workers_remember_what_was_used_when_redis_is_emptied_under_them(tmp_path: Path) -> None:
    with (
        FakeVllm() as backend,
        redis_server() as redis,
        running_gateway(tmp_path, {**config(backend), "redis": {"url": redis.url}}) as gateway,
    ):
        spend(gateway)
        redis.client().flushall()
        until(lambda: gateway.metric("api_rate_limit_restored_total") >= 1, 10, "Redis restored")
        until(lambda: "x-ratelimit-degraded" not in chat(gateway).headers, 5, "Redis in use")
        assert is_spent(gateway)


@pytest.mark.parametrize("store", ["redis", "memory"])
def test_the_tally_remembers_when_nobody_else_does(tmp_path: Path, store: str) -> None:
    with FakeVllm() as backend, redis_server() as redis:
        settings = config(backend) | ({"redis": {"url": redis.url}} if store == "redis" else {})
        with running_gateway(tmp_path, settings) as gateway:
            spend(gateway)
            until(lambda: tallied(gateway), 10, "the tally")
        redis.client().flushall()
        with running_gateway(tmp_path, settings) as gateway:
            assert is_spent(gateway)


@pytest.mark.parametrize("store", ["redis", "memory"])
def test_requests_of_a_day_are_remembered_and_refused_ones_are_none_of_them(tmp_path: Path, store: str) -> None:
    """Three of five, and many that came to nothing, before everybody forgets: two more pass."""
    with FakeVllm() as backend, redis_server() as redis:
        settings = {**config(backend), "rate_limits": {"t": {"requests_per_day": 5}}}
        settings |= {"redis": {"url": redis.url}} if store == "redis" else {}
        with running_gateway(tmp_path, settings) as gateway:
            assert [chat(gateway).status_code for _ in range(3)] == [200] * 3
            assert [chat(gateway, model="none").status_code for _ in range(4)] == [404] * 4
            gateway.records(7)
            until(lambda: admitted(gateway) == 3, 10, "the tally")
        redis.client().flushall()
        with running_gateway(tmp_path, settings) as gateway:
            assert [chat(gateway).status_code for _ in range(4)] == [200, 200, 429, 429]


def admitted(gateway: RunningGateway) -> int:
    with UsageDb(gateway.directory / "logs" / "tally.sqlite").reading() as book:
        (count,) = book.execute("SELECT sum(admitted) FROM days").fetchone()
    return int(count)
