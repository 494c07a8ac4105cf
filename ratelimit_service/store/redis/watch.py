"""Checks once a second whether Redis's clock, or ours, has stepped, and whether Redis has lost its data."""

import asyncio
import logging
import time
from collections.abc import Callable

from redis import exceptions
from redis.asyncio import Redis

from gatehouse.redis_client.client import Client
from ratelimit_service.store.clock_watch import Clock, ClockWatch
from ratelimit_service.store.port import StoreUnavailable
from ratelimit_service.store.redis.marker import RedisMarker

log = logging.getLogger(__name__)

PERIOD_S = 1.0
_SURE_S = 0.5
"""A slower answer says too little about when Redis read its clock."""


class RedisWatch:
    """Calls `forgot` when Redis has come back empty, and `stepped` when a clock has. The breaker handles outages."""

    def __init__(
        self, client: Client, marker: RedisMarker, forgot: Callable[[], None], stepped: Callable[[Clock], None]
    ) -> None:
        self._client = client
        self._marker = marker
        self._forgot = forgot
        self._stepped = stepped
        self._clocks: dict[Clock, ClockWatch] = {"redis": ClockWatch(), "machine": ClockWatch()}

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            self._note("machine", time.time(), time.monotonic())
            try:
                async with asyncio.timeout(PERIOD_S):
                    await self._look()
            except (exceptions.RedisError, exceptions.RedisClusterException, OSError, TimeoutError, StoreUnavailable):
                continue

    async def _look(self) -> None:
        if isinstance(self._client, Redis):  # the nodes of a cluster have a clock each
            await self._look_at_clock(self._client)
        if await self._marker.forgotten():
            self._forgot()

    async def _look_at_clock(self, client: Redis) -> None:
        began = time.monotonic()
        seconds, micros = await client.time()
        now = time.monotonic()
        if now - began < _SURE_S:
            self._note("redis", seconds + micros / 1e6, (began + now) / 2)

    def _note(self, clock: Clock, clock_s: float, monotonic_s: float) -> None:
        step = self._clocks[clock].step_s(clock_s, monotonic_s)
        if step:
            log.warning(
                "the clock of %s has stepped by %.0f s: limits recover within their periods", _WHOSE[clock], step
            )
            self._stepped(clock)


_WHOSE: dict[Clock, str] = {"redis": "Redis' host", "machine": "this machine"}
