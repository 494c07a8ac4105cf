"""Whether the service may be asked: Redis has been reached, and, if wanted, a configuration has been loaded."""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence

from redis.exceptions import RedisClusterException, RedisError

from gatehouse.redis_client import Client
from gatehouse.rpc import Health
from ratelimit_service.dropin.settings import RedisStartup

log = logging.getLogger(__name__)

CHECK_S = 1.0


class NeverReachedError(Exception):
    """Redis has not answered within REDIS_STARTUP_MAX_ELAPSED_TIME."""


class Readiness(Health):
    """Health for a service that is not ready as soon as it listens, over gRPC and HTTP alike."""

    def __init__(self, ready: Callable[[], bool]) -> None:
        self._listens = False
        self._ready = ready

    @property
    def serving(self) -> bool:
        return self._listens and self._ready()

    @serving.setter
    def serving(self, listens: bool) -> None:
        self._listens = listens


class Reachable:
    """Knows whether every Redis answers `PING`: `yes` is False until `first` has returned."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self._clients = clients
        self.yes = False

    async def first(self, startup: RedisStartup) -> None:
        """Ask until all answer, with growing pauses. Raises `NeverReachedError` when that takes too long."""
        pause, waited = startup.initial_interval, 0.0
        while not await self._ask():
            if 0 < startup.max_elapsed_time <= waited:
                raise NeverReachedError(f"Redis did not answer for {waited:.0f} s")
            delay = pause * random.uniform(0.5, 1.0)  # so that restarted replicas do not ask all at once
            log.warning("Redis does not answer, next attempt in %.1f s", delay)
            await asyncio.sleep(delay)
            pause, waited = min(2 * pause, startup.max_interval), waited + delay

    async def watch(self) -> None:
        """Keep asking, for ever."""
        while True:
            await asyncio.sleep(CHECK_S)
            await self._ask()

    async def _ask(self) -> bool:
        try:
            self.yes = all([await _pinged(client) for client in self._clients])
        except (RedisError, RedisClusterException, OSError) as error:
            log.debug("Redis: %s", type(error).__name__)
            self.yes = False
        return self.yes


async def _pinged(client: Client) -> bool:
    return bool(await client.ping())
