"""Graceful shutdown: fail the health check, then close the listeners, then let running requests finish."""

import asyncio
import logging
import time

import aiohttp

from gatehouse.config.model import Server
from gatehouse.config.run_dir import RunDir
from gatehouse.gateway.envoy_admin import Admin

log = logging.getLogger(__name__)

LAST_ENTRIES_S = 0.5
"""Longer than the access log's flush interval, so that Envoy sends the last entries before it exits."""


async def drain(admin: Admin, run_dir: RunDir, server: Server, hurry: asyncio.Event) -> bool:
    """Drain the Envoy of `run_dir` as `finish` does, but let load balancers notice first.

    For `drain_notice_s` requests are still served, `/health` is 503 and responses ask clients to reconnect: they have
    moved elsewhere before the port closes.
    """
    try:
        run_dir.draining.touch()
        await admin.post("/healthcheck/fail")  # responses now carry `connection: close`, or GOAWAY
        await asyncio.wait_for(hurry.wait(), server.drain_notice_s)
    except TimeoutError:
        pass
    except (aiohttp.ClientError, OSError) as error:
        log.warning("can't make Envoy fail its health check: %s", error)
    return await finish(admin, server.drain_s, hurry)


async def finish(admin: Admin, limit_s: float, hurry: asyncio.Event) -> bool:
    """Close the listeners; return when no request runs, after `limit_s`, or on `hurry`. True if no request runs."""
    try:
        await admin.post("/drain_listeners?graceful&skip_exit")
        await admin.post("/drain_listeners")
        idle = await _until_idle(admin, time.monotonic() + limit_s, hurry)
        await asyncio.sleep(LAST_ENTRIES_S)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        log.warning("Envoy did not drain: %s", error or type(error).__name__)
        return False
    return idle


async def _until_idle(admin: Admin, deadline: float, hurry: asyncio.Event) -> bool:
    while not hurry.is_set():
        running = await admin.gauge("http.gatehouse.downstream_rq_active")
        if running == 0:
            return True
        if time.monotonic() >= deadline:
            log.warning("%d requests were still running when the drain time ended", running)
            return False
        await asyncio.sleep(0.1)
    return False
