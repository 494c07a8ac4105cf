"""The two applications: `public` on a unix socket for Envoy, `operator` on a TCP port for Prometheus."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import ClientSession
from aiohttp.typedefs import Handler, Middleware
from aiohttp.web import (
    Application,
    AppRunner,
    HTTPException,
    HTTPMethodNotAllowed,
    Request,
    SockSite,
    StreamResponse,
    TCPSite,
    middleware,
)

from gatehouse.config.model import Config, Server
from gatehouse.config.run_dir import RunDir, workers
from gatehouse.contract.errors import GATEWAY_ERROR, METHOD_NOT_ALLOWED, NOT_FOUND, UNKNOWN_HOST
from gatehouse.rpc.unix_socket import bound
from portal_service import hosts, static_files
from portal_service.limits_left import LimitsLeft
from portal_service.near_limits import NearLimits
from portal_service.neighbours import Neighbours
from portal_service.overview import Overview
from portal_service.pages import Pages, refused
from portal_service.tally.usage_db import UsageDb

log = logging.getLogger(__name__)

Adopt = Callable[[Config], None]
LOOK_S = 0.5
GRACE_S = 1.0
"""How long a running response may take after SIGTERM; the standby waits meanwhile."""

LONGEST_HEADER = 4 * 1024 * 1024
"""On the socket that only Envoy reaches: its header lists the models a caller may use, possibly thousands."""


@asynccontextmanager
async def serving(config: Config, run_dir: RunDir, db: UsageDb) -> AsyncIterator[Adopt]:
    """Serve HTTP while the block runs. Yields a function to call when the configuration has changed.

    Raises `OSError` when the unix socket can't be bound. The operator's port is retried.
    """
    async with ClientSession() as session:
        sockets = [run_dir.socket("ratelimit", worker) for worker in range(workers(config, "ratelimit"))]
        allowance = LimitsLeft(sockets)
        near = NearLimits(db, allowance)
        pages = Pages(config, run_dir, session, allowance, db, near, Neighbours(config, run_dir))
        overview = Overview(config, run_dir, db, pages.health_report, near)
        public = AppRunner(public_app(pages), access_log=None, shutdown_timeout=GRACE_S, max_field_size=LONGEST_HEADER)
        operator = AppRunner(operator_app(pages, overview), access_log=None, shutdown_timeout=GRACE_S)

        def adopt(changed: Config) -> None:
            pages.adopt(changed)
            overview.adopt(changed)

        await _listen_unix(public, run_dir.portal_socket)
        operating = await _operate(operator, config.server, run_dir)
        try:
            yield adopt
        finally:
            operating.cancel()
            run_dir.portal_socket.unlink(missing_ok=True)
            await asyncio.gather(public.cleanup(), operator.cleanup())


async def _operate(operator: AppRunner, server: Server, run_dir: RunDir) -> "asyncio.Task[None]":
    """Listen on the operator's port, as soon as it is free, until another gateway has taken over: two generations on
    one port would answer Prometheus in turn, each with its own counts."""
    await operator.setup()
    open_ = not server.metrics_port or await _listens(operator, server, logging.ERROR)

    async def until_replaced() -> None:
        nonlocal open_
        while not run_dir.replaced.exists():
            open_ = open_ or await _listens(operator, server, logging.DEBUG)
            await asyncio.sleep(LOOK_S)
        await operator.cleanup()

    return asyncio.create_task(until_replaced())


async def _listens(operator: AppRunner, server: Server, level: int) -> bool:
    """Whether that is possible now."""
    host, port = server.metrics_host, server.metrics_port
    try:
        await TCPSite(operator, host, port, reuse_port=True).start()
    except OSError as error:
        log.log(level, "can't listen on %s:%s (server.metrics_port), and try until I can: %s", host, port, error)
        return False
    return True


def public_app(pages: Pages) -> Application:
    """Routes for clients, through Envoy, which authorizes `/v1/*`."""
    app = _app(pages)
    app.router.add_get("/health", pages.public_health)
    app.router.add_get("/metrics", pages.public_metrics)
    app.router.add_get("/v1/usage", pages.usage)
    app.router.add_get("/v1/models", pages.models)
    app.router.add_get("/v1/models/{id:.+}", pages.model)
    static_files.add(app, "usage")
    return app


def operator_app(pages: Pages, overview: Overview) -> Application:
    """Routes for operators and Prometheus, without a key."""

    @middleware
    async def asked_by_its_name(request: Request, handler: Handler) -> StreamResponse:
        if not hosts.is_ours(request.headers.get("Host"), pages.server):
            return refused(UNKNOWN_HOST)
        return await handler(request)

    app = _app(pages, asked_by_its_name)
    app.router.add_get("/health", pages.health)
    app.router.add_get("/metrics", pages.metrics)
    app.router.add_get("/ui/data", overview.data)
    static_files.add(app, "ui")
    return app


def _app(pages: Pages, *more: Middleware) -> Application:
    app = Application(middlewares=[_errors_in_openai_shape, *more])
    app.on_response_prepare.append(_be_careful)
    app.router.add_get("/", pages.front)
    return app


@middleware
async def _errors_in_openai_shape(request: Request, handler: Handler) -> StreamResponse:
    try:
        return await handler(request)
    except HTTPMethodNotAllowed as error:
        return refused(METHOD_NOT_ALLOWED, {"Allow": error.headers["Allow"]})
    except HTTPException:
        return refused(NOT_FOUND)
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return refused(GATEWAY_ERROR)


async def _be_careful(_request: Request, response: StreamResponse) -> None:
    """Hide the server software, and forbid browsers to sniff content types or show responses to other sites."""
    response.headers["Server"] = "gatehouse"
    for name, value in static_files.HEADERS.items():
        response.headers.setdefault(name, value)


async def _listen_unix(runner: AppRunner, path: Path) -> None:
    await runner.setup()
    await SockSite(runner, bound(path)).start()
