"""A key in Redis that is lost together with the counts: by FLUSHALL, a restart without a file, or a failover to an
empty replica."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis import exceptions

from gatehouse.redis_client.client import Client
from ratelimit_service.store.redis.calls import unavailable

_PATIENCE_S = 1.0
_RESTORED_IN_S = 10
_STEP_S = 0.02


class RedisMarker:
    """`resilient.Marker`. On a cluster it covers only the node that has its slot."""

    def __init__(self, client: Client, prefix: str = "gh:") -> None:
        self._client = client
        self._key = f"{prefix}marker"
        self._lock = f"{prefix}restoring"
        self._known: str | None = None

    async def forgotten(self) -> bool:
        """Whether the key is missing, or differs from the one this process remembers: the first that it read."""
        value = await self._value()
        if value is None:
            return True
        self._known = self._known or value
        return value != self._known

    async def missing(self) -> bool:
        """Whether there is no key: Redis is new, or has lost its data."""
        return await self._value() is None

    async def renew(self) -> bool:
        """Remember the key, and set it if there is none; True if this process has set it."""
        mark = secrets.token_hex(8)
        is_new = await self._ask("SET", self._key, mark, "NX") is not None
        self._known = mark if is_new else await self._value()
        return is_new

    @asynccontextmanager
    async def restoring(self) -> AsyncIterator[None]:
        while await self._ask("SET", self._lock, "1", "NX", "EX", _RESTORED_IN_S) is None:
            await asyncio.sleep(_STEP_S)
        try:
            yield
            await self.renew()
        finally:
            await self._ask("DEL", self._lock)

    async def _value(self) -> str | None:
        found = await self._ask("GET", self._key)
        return None if found is None else found.decode()

    async def _ask(self, *words: str | int) -> bytes | None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                answer: bytes | None = await self._client.execute_command(*words)
                return answer
        except (exceptions.RedisError, exceptions.RedisClusterException, OSError, TimeoutError) as error:
            raise unavailable(error) from None
