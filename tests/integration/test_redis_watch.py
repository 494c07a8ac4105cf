"""What a look at Redis once a second notices: clocks that step, and counts that are gone."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from gatehouse.redis_client.client import connect
from ratelimit_service.metrics import Metrics
from ratelimit_service.store.clock_watch import ClockWatch
from ratelimit_service.store.memory import epoch_ms
from ratelimit_service.store.redis import watch
from ratelimit_service.store.redis.marker import RedisMarker
from testkit.redis_server import RedisServer, redis_server
from testkit.waiting import until_async

pytestmark = pytest.mark.asyncio


class Watched:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.forgotten = 0
        self.redis_ahead_s = 0

    def forgot(self) -> None:
        self.forgotten += 1

    def steps(self, clock: str) -> float:
        return self.registry.get_sample_value("api_clock_steps_total", {"clock": clock}) or 0


@asynccontextmanager
async def watching(server: RedisServer) -> AsyncIterator[Watched]:
    watched, client = Watched(), connect(server.url, timeout_s=5)
    true_time = client.time

    async def stepped() -> tuple[int, int]:
        seconds, micros = await true_time()
        return seconds + watched.redis_ahead_s, micros

    client.time = stepped  # type: ignore[method-assign,assignment,union-attr] # a host's clock can't be set here
    marker = RedisMarker(client)
    await marker.renew()
    task = asyncio.create_task(
        watch.RedisWatch(client, marker, watched.forgot, Metrics(watched.registry).on_clock_step).run()
    )
    try:
        yield watched
    finally:
        task.cancel()
        await client.aclose()


async def test_a_step_of_redis_clock_is_told_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch, "PERIOD_S", 0.05)
    with redis_server() as server, caplog.at_level(logging.WARNING):
        async with watching(server) as watched:
            await asyncio.sleep(0.3)
            watched.redis_ahead_s = -3600
            await until_async(lambda: watched.steps("redis") == 1)
            assert watched.steps("machine") == 0
    assert "the clock of Redis' host has stepped by -3600 s" in caplog.text


async def test_a_step_of_the_machines_clock_is_counted_and_gives_nobody_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "PERIOD_S", 0.05)
    with redis_server() as server:
        async with watching(server) as watched:
            await asyncio.sleep(0.3)
            before, true_time = epoch_ms(), time.time
            monkeypatch.setattr(time, "time", lambda: true_time() + 3600)
            await until_async(lambda: watched.steps("machine") == 1)
            assert epoch_ms() - before < 60_000


async def test_an_emptied_redis_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PERIOD_S", 0.05)
    with redis_server() as server:
        async with watching(server) as watched:
            await asyncio.sleep(0.3)
            assert watched.forgotten == 0
            server.client().flushall()
            await until_async(lambda: watched.forgotten > 0)


async def test_drift_is_no_step() -> None:
    watch = ClockWatch()
    assert [watch.step_s(100 + i * 1.001, i) for i in range(1000)] == [0] * 1000
    assert watch.step_s(50, 1000) < -1
