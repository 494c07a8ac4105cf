"""Envoy's admin interface over its unix socket: health, draining, statistics and logs."""

import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

log = logging.getLogger(__name__)


class Admin:
    """Commands to a running Envoy. Raises `aiohttp.ClientError` or `TimeoutError` if it does not answer."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._held: aiohttp.ClientSession | None = None

    async def post(self, path: str) -> None:
        async with self._session() as session, session.post(f"http://envoy{path}") as answer:
            answer.raise_for_status()

    async def ready(self) -> None:
        """Return if Envoy answers, whether or not it is ready for requests."""
        await self.gauge("server.live")

    async def serves(self) -> bool:
        """Whether Envoy is ready for requests."""
        async with self._session() as session, session.get("http://envoy/ready") as answer:
            return answer.status == 200

    async def reopen_logs(self) -> None:
        """Close and reopen all log files by name, after a rotation."""
        await self.post("/reopen_logs")

    async def log_at(self, level: str, exceptions: Mapping[str, str]) -> None:
        """Set Envoy's log level, with exceptions per component. If Envoy does not answer, its level stays."""
        try:
            await self.post(f"/logging?level={level}")
            for component, other in exceptions.items():
                await self.post(f"/logging?{component}={other}")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.warning("Envoy did not change its log level: %s", error or type(error).__name__)

    async def gauge(self, name: str) -> int:
        """The value of one gauge or counter; 0 if Envoy has none of that name."""
        return int((await self.stats(f"^{re.escape(name)}$")).get(name, "0"))

    async def stats(self, expression: str) -> dict[str, str]:
        """The statistics whose names match `expression`: numbers, and texts without their quotes."""
        params = {"filter": expression}
        async with self._session() as session, session.get("http://envoy/stats", params=params) as answer:
            lines = (line.partition(": ") for line in (await answer.text()).splitlines())
        return {name: value.strip('"') for name, _, value in lines}

    async def hold(self) -> None:
        """Keep a connection open: once another Envoy has taken over, this one accepts no new ones."""
        if self._held is None:
            self._held = self._new(limit=1)
        await self.ready()

    async def close(self) -> None:
        if self._held:
            await self._held.close()
        self._held = None

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[aiohttp.ClientSession]:
        if self._held:
            yield self._held
            return
        async with self._new() as session:
            yield session

    def _new(self, limit: int = 0) -> aiohttp.ClientSession:
        connector = aiohttp.UnixConnector(str(self._socket), limit=limit, keepalive_timeout=86_400)
        return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=2))
