"""The two applications: `public` on a unix socket for Envoy, `operator` on a TCP port for Prometheus."""

import asyncio
import logging
import socket
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

from accesslog_service.allowance import Allowance
from accesslog_service.http import hosts, people
from accesslog_service.http.near_limits import NearLimits
from accesslog_service.http.overview import Overview
from accesslog_service.http.pages import Pages, refused
from accesslog_service.tally.book import Book
from gatehouse.config.model import Config
from gatehouse.config.run_dir import RunDir, workers
from gatehouse.contract.errors import GATEWAY_ERROR, METHOD_NOT_ALLOWED, NOT_FOUND, UNKNOWN_HOST

log = logging.getLogger(__name__)

Adopt = Callable[[Config], None]
LOOK_S = 0.5

LONGEST_HEADER = 4 * 1024 * 1024
"""On the socket that Envoy alone reaches: it says there which models a caller may use, and that may be thousands."""


@asynccontextmanager
async def serving(config: Config, run_dir: RunDir, index: int, book: Book) -> AsyncIterator[Adopt]:
    """Answer HTTP as receiver `index` while the block runs; it is given what is to be called when `config` has changed.

    Raises `OSError` when a socket or port can't be had.
    """
    async with ClientSession() as session:
        sockets = [run_dir.socket("ratelimit", worker) for worker in range(workers(config, "ratelimit"))]
        allowance = Allowance(sockets)
        near = NearLimits(book, allowance)
        pages = Pages(config, run_dir, session, allowance, book, near)
        overview = Overview(config, run_dir, book, pages.health_report, near)
        public = AppRunner(public_app(pages), access_log=None, max_field_size=LONGEST_HEADER)
        operator = AppRunner(operator_app(pages, overview), access_log=None)

        def adopt(changed: Config) -> None:
            pages.adopt(changed)
            overview.adopt(changed)

        leaving = asyncio.create_task(_leave_to_successor(operator, run_dir))
        try:
            await _listen_unix(public, run_dir.http_socket(index))
            if config.server.metrics_port:
                await _listen_tcp(operator, config.server.metrics_host, config.server.metrics_port)
            yield adopt
        finally:
            leaving.cancel()
            await public.cleanup()
            await operator.cleanup()
            run_dir.http_socket(index).unlink(missing_ok=True)


async def _leave_to_successor(operator: AppRunner, run_dir: RunDir) -> None:
    """Two generations of a gateway on one port would answer Prometheus by turns, each with counts of its own."""
    while not run_dir.replaced.exists():
        await asyncio.sleep(LOOK_S)
    await operator.cleanup()


def public_app(pages: Pages) -> Application:
    """What clients reach through Envoy, which has authorized whoever asks for `/v1/*`."""
    app = _app(pages)
    app.router.add_get("/health", pages.public_health)
    app.router.add_get("/metrics", pages.public_metrics)
    app.router.add_get("/v1/usage", pages.usage)
    app.router.add_get("/v1/models", pages.models)
    app.router.add_get("/v1/models/{id:.+}", pages.model)
    people.add(app, "usage")
    return app


def operator_app(pages: Pages, overview: Overview) -> Application:
    """What operators and Prometheus reach without a key."""

    @middleware
    async def asked_by_its_name(request: Request, handler: Handler) -> StreamResponse:
        if not hosts.is_ours(request.headers.get("Host"), pages.server):
            return refused(UNKNOWN_HOST)
        return await handler(request)

    app = _app(pages, asked_by_its_name)
    app.router.add_get("/health", pages.health)
    app.router.add_get("/metrics", pages.metrics)
    app.router.add_get("/ui/data", overview.data)
    people.add(app, "ui")
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
    """Name no server software; let no browser make of an answer what it is not, or another site of it what it says."""
    response.headers["Server"] = "gatehouse"
    for name, value in people.HEADERS.items():
        response.headers.setdefault(name, value)


async def _listen_unix(runner: AppRunner, path: Path) -> None:
    await runner.setup()
    await SockSite(runner, _bound(path)).start()


def _bound(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # left by the process before this one
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(path))
    path.chmod(0o660)
    return bound


async def _listen_tcp(runner: AppRunner, host: str, port: int) -> None:
    """Every receiver listens on the same port; the kernel spreads connections over them."""
    await runner.setup()
    await TCPSite(runner, host, port, reuse_port=True).start()
