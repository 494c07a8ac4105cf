"""Who answers Envoy's rate limit calls when Envoy finds no worker to ask."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from accesslog_service.stand_in import StandIn
from gatehouse.pb.rls_pb2 import RateLimitResponse
from gatehouse.rpc.server import serve
from gatehouse.rpc.service import Context, Service, Unary

pytestmark = pytest.mark.asyncio

NOBODY: Any = None
ANSWER = RateLimitResponse(overall_code=RateLimitResponse.OVER_LIMIT).SerializeToString()


@asynccontextmanager
async def workers(*late_s: float | None) -> AsyncIterator[list[Path]]:
    """Sockets of workers that decide so late each; None is one that is dead."""
    directory, stop = Path(tempfile.mkdtemp(prefix="gh-standin-")), asyncio.Event()
    sockets = [directory / f"{i}.sock" for i in range(len(late_s))]

    def service(late: float) -> Service:
        async def decide(_request: bytes, _context: Context) -> bytes:
            await asyncio.sleep(late)
            return ANSWER

        methods = {"ShouldRateLimit": Unary(decide, bytes, encode=bytes)}
        return Service({"envoy.service.ratelimit.v3.RateLimitService": methods})

    alive = [(socket, late) for socket, late in zip(sockets, late_s, strict=True) if late is not None]
    tasks = [asyncio.create_task(serve(service(late), socket, stop, 0)) for socket, late in alive]
    while not all(socket.exists() for socket, _ in alive):
        await asyncio.sleep(0.01)
    try:
        yield sockets
    finally:
        stop.set()
        await asyncio.gather(*tasks)
        shutil.rmtree(directory)


async def test_a_worker_that_lives_decides() -> None:
    async with workers(None, 0) as sockets:
        assert await StandIn(sockets, CollectorRegistry()).should_rate_limit(b"", NOBODY) == ANSWER


async def test_where_nobody_lives_requests_pass_marked_and_counted() -> None:
    registry = CollectorRegistry()
    async with workers(None, None) as sockets:
        answer = RateLimitResponse.FromString(await StandIn(sockets, registry).should_rate_limit(b"", NOBODY))
    assert answer.overall_code == RateLimitResponse.OK
    assert [(h.key, h.value) for h in answer.response_headers_to_add] == [("x-ratelimit-degraded", "true")]
    assert registry.get_sample_value("api_rate_limit_bypassed_total") == 1


async def test_where_somebody_lives_and_is_busy_requests_are_refused() -> None:
    registry = CollectorRegistry()
    async with workers(10) as sockets:
        answer = RateLimitResponse.FromString(await StandIn(sockets, registry).should_rate_limit(b"", NOBODY))
    assert answer.overall_code == RateLimitResponse.OVER_LIMIT
    assert answer.dynamic_metadata["error_code"] == "server_is_overloaded"
    assert registry.get_sample_value("api_rate_limit_bypassed_total") == 0
