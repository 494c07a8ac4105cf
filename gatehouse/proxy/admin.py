"""Envoy's admin interface over its unix socket: what a shutdown needs, and the rotation of its logs."""

import asyncio
import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path

import aiohttp

log = logging.getLogger(__name__)

LAST_ENTRIES_S = 0.5
"""Longer than the flush interval of the access log, so that the last entries leave before Envoy does."""


class Admin:
    """Commands to a running Envoy. Raises `aiohttp.ClientError` or `TimeoutError` when it does not answer."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def post(self, path: str) -> None:
        async with self._session() as session, session.post(f"http://envoy{path}") as answer:
            answer.raise_for_status()

    async def ready(self) -> None:
        """Return if Envoy answers, be it ready for requests or not."""
        await self.gauge("server.live")

    async def reopen_logs(self) -> None:
        """Close every log file and open it again by its name: it may have been renamed."""
        await self.post("/reopen_logs")

    async def log_at(self, level: str, exceptions: Mapping[str, str]) -> None:
        """Log from `level` on, but for some components. An Envoy that does not answer goes on as it did."""
        try:
            await self.post(f"/logging?level={level}")
            for component, other in exceptions.items():
                await self.post(f"/logging?{component}={other}")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.warning("Envoy did not change its log level: %s", error or type(error).__name__)

    async def gauge(self, name: str) -> int:
        """The value of one gauge or counter; 0 when Envoy has none of that name."""
        return int((await self.stats(f"^{re.escape(name)}$")).get(name, "0"))

    async def stats(self, expression: str) -> dict[str, str]:
        """The statistics whose names `expression` is found in: numbers, and texts without their quotes."""
        params = {"filter": expression}
        async with self._session() as session, session.get("http://envoy/stats", params=params) as answer:
            lines = (line.partition(": ") for line in (await answer.text()).splitlines())
        return {name: value.strip('"') for name, _, value in lines}

    def _session(self) -> aiohttp.ClientSession:
        connector = aiohttp.UnixConnector(str(self._socket))
        return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=2))


async def drain(admin: Admin, limit_s: float, hurry: asyncio.Event) -> None:
    """Let running requests finish: no new connections, and return when none is left, after `limit_s`, or on `hurry`."""
    try:
        await admin.post("/drain_listeners?graceful&skip_exit")  # answers now say `connection: close`
        await admin.post("/drain_listeners")  # and nobody new gets in
        await _until_idle(admin, time.monotonic() + limit_s, hurry)
        await asyncio.sleep(LAST_ENTRIES_S)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        log.warning("Envoy did not drain: %s", error or type(error).__name__)


async def _until_idle(admin: Admin, deadline: float, hurry: asyncio.Event) -> None:
    while not hurry.is_set():
        running = await admin.gauge("http.gatehouse.downstream_rq_active")
        if running == 0:
            return
        if time.monotonic() >= deadline:
            log.warning("%d requests were still running when the time to drain was up", running)
            return
        await asyncio.sleep(0.1)
