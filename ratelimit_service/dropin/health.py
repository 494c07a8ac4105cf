"""Readiness: Redis has been reached and, if required, a configuration has been loaded."""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

from gatehouse.contract.failures import GatehouseError
from gatehouse.pb import health_pb2
from gatehouse.rpc.service import Code, Context, Health
from ratelimit_service.dropin.settings import RedisStartup
from ratelimit_service.store.limits import MAX_AMOUNT, Algorithm, Limit
from ratelimit_service.store.port import Ask, Charge, Store, StoreUnavailable

log = logging.getLogger(__name__)

CHECK_S = 1.0

NAME = "ratelimit"
"""The service whose health callers ask for."""


_PROBE = Ask("", (Charge("|health", Limit("health", MAX_AMOUNT, 1, Algorithm.FIXED_WINDOW, shadow=True)),))
"""A count that no request shares: their keys begin with a domain."""


class NeverReachedError(GatehouseError):
    """Redis has not answered within REDIS_STARTUP_MAX_ELAPSED_TIME."""


class Readiness(Health):
    """Health for a service that is not ready as soon as it listens, over gRPC and HTTP alike."""

    def __init__(self, ready: Callable[[], bool]) -> None:
        self._listens = False
        self._ready = ready

    async def check(self, request: Any, context: Context) -> health_pb2.HealthCheckResponse:
        """For the service `ratelimit`, or the process as a whole. Any other is unknown."""
        if request.service not in ("", NAME):
            await context.abort(Code.NOT_FOUND, "unknown service")
        return await super().check(request, context)

    @property
    def serving(self) -> bool:
        return self._listens and self._ready()

    @serving.setter
    def serving(self, listens: bool) -> None:
        self._listens = listens


class Reachable:
    """Tracks whether every store works: `yes` is False until `first` has returned.

    Each check counts a hit, as requests do: a Redis that only answers `PING` is of no use.
    """

    def __init__(self, stores: Sequence[Store]) -> None:
        self._stores = stores
        self.yes = False

    async def first(self, startup: RedisStartup) -> None:
        """Retry with backoff until all answer. Raises `NeverReachedError` when that takes too long."""
        pause, waited = startup.initial_interval, 0.0
        while (fault := await self._ask()) is not None:
            if 0 < startup.max_elapsed_time <= waited:
                raise NeverReachedError(f"Redis did not answer for {waited:.0f} s: {fault}")
            delay = pause * random.uniform(0.5, 1.0)  # jitter, so that restarted replicas do not retry in step
            log.warning("Redis does not serve, next attempt in %.1f s: %s", delay, fault)
            await asyncio.sleep(delay)
            pause, waited = min(2 * pause, startup.max_interval), waited + delay

    async def watch(self) -> None:
        """Check regularly, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_S)
            before = self.yes
            fault = await self._ask()
            if self.yes != before:
                log.warning("Redis serves again" if fault is None else f"Redis does not serve: {fault}")

    async def _ask(self) -> StoreUnavailable | None:
        """The error, if any."""
        try:
            for store in self._stores:
                await store.decide(_PROBE)
        except StoreUnavailable as error:
            self.yes = False
            return error
        self.yes = True
        return None
