"""Envoy's admin interface over its unix socket: what a shutdown needs, and the rotation of its logs."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp


class Admin:
    """Commands to a running Envoy. Raises `aiohttp.ClientError` or `TimeoutError` when it does not answer."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._held: aiohttp.ClientSession | None = None

    async def post(self, path: str) -> None:
        async with self._session() as session, session.post(f"http://envoy{path}") as answer:
            answer.raise_for_status()

    async def ready(self) -> None:
        """Return if Envoy answers, be it ready for requests or not."""
        await self.gauge("server.live")

    async def serves(self) -> bool:
        """Whether it is ready for requests."""
        async with self._session() as session, session.get("http://envoy/ready") as answer:
            return answer.status == 200

    async def reopen_logs(self) -> None:
        """Close every log file and open it again by its name: it may have been renamed."""
        await self.post("/reopen_logs")

    async def gauge(self, name: str) -> int:
        """The value of one gauge or counter; 0 when Envoy has none of that name."""
        url = f"http://envoy/stats?filter=^{re.escape(name)}$"
        async with self._session() as session, session.get(url) as answer:
            _, _, value = (await answer.text()).strip().partition(": ")
        return int(value or 0)

    async def hold(self) -> None:
        """Keep a connection: an Envoy that another takes over from accepts no new ones."""
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
