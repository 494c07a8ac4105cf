"""What is answered over HTTP: health and JSON to anyone, insights on the debug port, counts to Prometheus."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

AnswerJson = Callable[[bytes], Awaitable[tuple[int, str]]]
Lines = Callable[[], Iterable[str]]


def public(answer_json: AnswerJson, healthy: Callable[[], bool]) -> web.Application:
    """`GET /healthcheck` (200 `OK`, or 500) and `POST /json`."""

    async def healthcheck(_request: web.Request) -> web.Response:
        return web.Response(text="OK") if healthy() else web.Response(status=500)

    async def post(request: web.Request) -> web.Response:
        status, body = await answer_json(await request.read())
        return web.Response(
            status=status, text=body, content_type="text/plain" if status == 400 else "application/json"
        )

    return _application({"/healthcheck": healthcheck}, {"/json": post})


def debug(rlconfig: Lines, stats: Lines) -> web.Application:
    """`GET /` (what there is), `/rlconfig` (the rules in force) and `/stats` (all counts, by their full paths)."""
    index = ("/rlconfig: the rules in force", "/stats: all counts")
    return _application({"/": _page(lambda: index), "/rlconfig": _page(rlconfig), "/stats": _page(stats)})


def prometheus(path: str, registry: CollectorRegistry) -> web.Application:
    async def scrape(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"content-type": CONTENT_TYPE_LATEST})

    return _application({path: scrape})


@asynccontextmanager
async def serving(application: web.Application, host: str, port: int) -> AsyncIterator[None]:
    """Answer on host:port. Raises `OSError` when that can't be bound."""
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield
    finally:
        await runner.cleanup()


_Handler = Callable[[web.Request], Awaitable[web.Response]]


def _page(lines: Lines) -> _Handler:
    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="".join(f"{line}\n" for line in lines()))

    return page


def _application(gets: dict[str, _Handler], posts: dict[str, _Handler] | None = None) -> web.Application:
    application = web.Application()
    application.add_routes([web.get(path, handler) for path, handler in gets.items()])
    application.add_routes([web.post(path, handler) for path, handler in (posts or {}).items()])
    return application
