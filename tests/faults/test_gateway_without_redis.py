"""Redis gone, behind a whole gateway: what clients see is what `redis.on_failure` says."""

from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.redis_server import RedisServer, redis_server
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until

KEY = "sk-without-redis-001"
BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}


def chat(gateway: RunningGateway) -> httpx.Response:
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=BODY, headers={"x-api-key": KEY}, timeout=10)


def config(backend: FakeVllm, redis: RedisServer, on_failure: str) -> dict[str, Any]:
    return {
        "vllm": {"base_url": f"{backend.url}/v1", "default_model": "m"},
        "api_keys": {KEY: {"user_id": "u", "tier": "t"}},
        "rate_limits": {"t": {"requests_per_hour": 20}},
        "redis": {"url": redis.url, "on_failure": on_failure},
    }


def statuses(gateway: RunningGateway, count: int) -> list[int]:
    return [chat(gateway).status_code for _ in range(count)]


def by_redis(gateway: RunningGateway) -> httpx.Response | None:
    """An answer that Redis had a part in, if this is one."""
    answer = chat(gateway)
    return None if "x-ratelimit-degraded" in answer.headers else answer


@pytest.mark.parametrize("on_failure", ["local", pytest.param("allow", marks=pytest.mark.slow), "deny"])
def test_f10_without_redis_the_policy_holds_and_redis_is_used_again(tmp_path: Path, on_failure: str) -> None:
    with (
        FakeVllm() as backend,
        redis_server() as redis,
        running_gateway(tmp_path, config(backend, redis, on_failure)) as gateway,
    ):
        assert statuses(gateway, 3) == [200] * 3
        redis.process.send_signal(19)  # SIGSTOP: neither an answer nor a refusal
        answers = [chat(gateway) for _ in range(40)]
        redis.process.send_signal(18)
        assert all(answer.headers["x-ratelimit-degraded"] == "true" for answer in answers)
        passed = [answer.status_code for answer in answers].count(200)
        assert passed == {"local": 20 - 3, "allow": 40, "deny": 0}[on_failure], "of what was left, or all, or nothing"
        if on_failure == "deny":
            error = answers[-1].json()["error"]
            assert (answers[-1].status_code, error["code"]) == (503, "limits_unavailable")
            assert answers[-1].headers["retry-after"] == "1"
        until(lambda: gateway.metric("api_rate_limit_degraded_total") > 0)
        answer = until(lambda: by_redis(gateway), 3, "Redis, which is back,")
        left = int(answer.headers["x-ratelimit-remaining-requests"])
        assert left == 0 if on_failure != "deny" else left >= 10, "Redis knows what it knew, and what passed meanwhile"


def test_a_gateway_that_starts_without_redis_serves_and_takes_it_up_later(tmp_path: Path) -> None:
    with FakeVllm() as backend, redis_server() as redis:
        settings = config(backend, redis, "local")
        redis.process.send_signal(19)
        with running_gateway(tmp_path, settings) as gateway:
            assert chat(gateway).status_code == 200
            redis.process.send_signal(18)
            until(lambda: by_redis(gateway), 5)
