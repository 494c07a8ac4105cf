"""Exactly N of N behind a whole gateway with the default settings, beside two processes that only compute: over 100
HTTP/2 streams and for 200 clients, with each algorithm, in Redis and in memory, and while Redis is late or paused.

`test_limits_under_load` has the same without Envoy, and is quick.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from ratelimit_service.store.limits import Algorithm
from testkit.fakes.fake_vllm import FakeVllm
from testkit.late_network import jitter, late
from testkit.redis_server import RedisServer, redis_server
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.stopping import pauses
from testkit.storm import HOUR_S, clear_of_the_end_of_an_hour, cpu_hogs

pytestmark = [pytest.mark.asyncio, pytest.mark.slow]

LIMIT, ASKED, CLIENTS, STREAMS = 300, 600, 200, 100
BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
PATIENCE_S = 120
OK, LIMITED = "ok", "rate_limit_exceeded"


def config(backend: FakeVllm, algorithm: Algorithm, limits: dict[str, int]) -> dict[str, Any]:
    return {
        "vllm": {"base_url": f"{backend.url}/v1", "default_model": "m"},
        "api_keys": {f"sk-under-load-{i:03}": {"user_id": f"user-{i}", "tier": "t"} for i in range(8)},
        "rate_limits": {"t": {"algorithm": algorithm.value, **limits}},
    }


@contextmanager
def gateway(
    directory: Path, algorithm: Algorithm, store: str, **limits: int
) -> Iterator[tuple[RunningGateway, RedisServer | None]]:
    with ExitStack() as stack:
        backend = stack.enter_context(FakeVllm())
        settings, server = config(backend, algorithm, limits), None
        if store != "memory":
            server = stack.enter_context(redis_server())
            port = stack.enter_context(late(server.port, jitter(0.5))) if store == "jitter" else server.port
            settings["redis"] = {"url": f"redis://127.0.0.1:{port}/0"}
        yield stack.enter_context(running_gateway(directory, settings)), server


async def statuses(client: httpx.AsyncClient, key: int, requests: int) -> Counter[str]:
    headers = {"x-api-key": f"sk-under-load-{key:03}"}
    answers = [await client.post("/v1/chat/completions", json=BODY, headers=headers) for _ in range(requests)]
    return Counter(OK if answer.status_code == 200 else answer.json()["error"]["code"] for answer in answers)


async def by_many_clients(running: RunningGateway, key: int = 0) -> Counter[str]:
    """200 clients of one user, each with one request after the other."""
    limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=running.url, timeout=PATIENCE_S, limits=limits) as client:
        found = await asyncio.gather(*(statuses(client, key, ASKED // CLIENTS) for _ in range(CLIENTS)))
    return sum(found, Counter())


async def by_many_streams(running: RunningGateway, key: int) -> Counter[str]:
    """100 streams of one HTTP/2 connection at once."""
    async with httpx.AsyncClient(base_url=running.url, timeout=PATIENCE_S, http1=False, http2=True) as client:
        found = await asyncio.gather(*(statuses(client, key, 1) for _ in range(STREAMS)))
    return sum(found, Counter())


def is_exact(found: Counter[str], limit: int, took_s: float, algorithm: Algorithm, period_s: int = HOUR_S) -> bool:
    refilled = int(limit * took_s / period_s) + 1 if algorithm is Algorithm.TOKEN_BUCKET else 0
    return limit <= found[OK] <= limit + refilled and found[OK] + found[LIMITED] == found.total()


@pytest.mark.parametrize("store", ["redis", "memory", "pauses", "jitter"])
@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_200_clients_get_exactly_n_of_n(tmp_path: Path, algorithm: Algorithm, store: str) -> None:
    with cpu_hogs(), gateway(tmp_path, algorithm, store, requests_per_hour=LIMIT) as (running, server):
        await clear_of_the_end_of_an_hour()
        began = time.monotonic()
        if store == "pauses" and server is not None:
            async with pauses(server):
                found = await by_many_clients(running)
        else:
            found = await by_many_clients(running)
        took_s = time.monotonic() - began
    print(f"{algorithm} {store}: {dict(found)} in {took_s:.1f} s")
    assert is_exact(found, LIMIT, took_s, algorithm), found


@pytest.mark.parametrize("store", ["redis", "memory"])
@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_100_streams_at_once_of_five_users_in_turn_get_exactly_30(
    tmp_path: Path, algorithm: Algorithm, store: str
) -> None:
    with cpu_hogs(), gateway(tmp_path, algorithm, store, requests_per_minute=30) as (running, _):
        for user in range(5):
            await clear_of_the_end_of_a_minute()
            began = time.monotonic()
            found = await by_many_streams(running, user)
            took_s = time.monotonic() - began
            print(f"{algorithm} {store} user {user}: {dict(found)} in {took_s:.1f} s")
            assert is_exact(found, 30, took_s, algorithm, 60), found


async def clear_of_the_end_of_a_minute() -> None:
    rest_s = 60 - time.time() % 60
    if rest_s < 10:
        await asyncio.sleep(rest_s)


async def test_a_caller_in_turn_never_meets_a_lease_of_its_own(tmp_path: Path) -> None:
    """Never two in flight, `concurrent_requests: 20`, Redis late by 0 to 500 ms."""
    with gateway(tmp_path, Algorithm.SLIDING_WINDOW, "jitter", concurrent_requests=20) as (running, _):
        async with httpx.AsyncClient(base_url=running.url, timeout=PATIENCE_S) as client:
            found = await statuses(client, 0, 60)
    assert found == Counter({OK: 60})


async def test_an_overrun_limiter_lets_nobody_pass_uncounted(tmp_path: Path) -> None:
    """150 clients with ten requests each at once, over 30 a minute."""
    with cpu_hogs(), gateway(tmp_path, Algorithm.FIXED_WINDOW, "redis", requests_per_hour=30) as (running, _):
        await clear_of_the_end_of_an_hour()
        limits = httpx.Limits(max_connections=1500, max_keepalive_connections=1500)
        async with httpx.AsyncClient(base_url=running.url, timeout=PATIENCE_S, limits=limits) as client:
            found = sum(await asyncio.gather(*(statuses(client, 0, 1) for _ in range(1500))), Counter())
        assert running.metric("api_rate_limit_bypassed_total") == 0
    print(dict(found))
    assert found[OK] == 30
    assert set(found) <= {OK, LIMITED, "server_is_overloaded", "auth_unavailable"}
