"""A graceful shutdown: `/health` fails first, then the port closes, then running requests finish."""

import asyncio
import logging
import time

import aiohttp

from gatehouse.config.model import Server
from gatehouse.config.run_dir import RunDir
from gatehouse.gateway.envoy_admin import Admin

log = logging.getLogger(__name__)

LAST_ENTRIES_S = 0.5
"""Longer than the flush interval of the access log, so that the last entries leave before Envoy does."""


async def drain(admin: Admin, run_dir: RunDir, server: Server, hurry: asyncio.Event) -> bool:
    """Drain the Envoy of `run_dir` as `finish` does, but notify load balancers first.

    For `drain_notice_s` all requests are still served, while `/health` is 503 and answers ask clients to reconnect, so
    that they have moved elsewhere before the port closes.
    """
    try:
        run_dir.draining.touch()
        await admin.post("/healthcheck/fail")  # answers now say `connection: close`, or GOAWAY
        await asyncio.wait_for(hurry.wait(), server.drain_notice_s)
    except TimeoutError:
        pass
    except (aiohttp.ClientError, OSError) as error:
        log.warning("Envoy can't be made to fail its health check: %s", error)
    return await finish(admin, server.drain_s, hurry)


async def finish(admin: Admin, limit_s: float, hurry: asyncio.Event) -> bool:
    """Close the port, and wait until no request runs, for `limit_s`, or for `hurry`. Returns whether none runs."""
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
            log.warning("%d requests were still running when the time to drain was up", running)
            return False
        await asyncio.sleep(0.1)
    return False
