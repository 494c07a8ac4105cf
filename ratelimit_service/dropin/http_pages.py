"""The HTTP endpoints: health and JSON for anyone, rules and counts on the debug port, metrics for Prometheus."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager

from aiohttp import web

MAX_JSON_BYTES = 4 * 1024 * 1024
"""The same as gRPC's limit on a message."""
EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' text format."""

AnswerJson = Callable[[bytes], Awaitable[tuple[int, str]]]
Lines = Callable[[], Iterable[str]]


def public(answer_json: AnswerJson, healthy: Callable[[], bool]) -> web.Application:
    """`/healthcheck` (200 `OK`, or 500) and `/json`, by any method."""

    async def healthcheck(_request: web.Request) -> web.Response:
        return web.Response(text="OK") if healthy() else web.Response(status=500)

    async def post(request: web.Request) -> web.Response:
        status, body = await answer_json(await request.read())
        return web.Response(
            status=status, text=body, content_type="text/plain" if status == 400 else "application/json"
        )

    return _application({"/healthcheck": healthcheck, "/json": post})


def debug(rlconfig: Lines, stats: Lines) -> web.Application:
    """`/rlconfig` (the rules in force) and `/stats` (all counts, by their full paths); anything else: what there is."""
    index = ("/rlconfig: the rules in force", "/stats: all counts")
    return _application({"/rlconfig": _page(rlconfig), "/stats": _page(stats), "/{any:.*}": _page(lambda: index)})


def prometheus(path: str, exposition: Callable[[], str]) -> web.Application:
    async def scrape(_request: web.Request) -> web.Response:
        return web.Response(body=exposition().encode(), headers={"content-type": EXPOSITION})

    return _application({path: scrape})


@asynccontextmanager
async def serving(application: web.Application, host: str, port: int, *, shared: bool = False) -> AsyncIterator[None]:
    """Serve on host:port; with `shared`, other processes may too. Raises `OSError` when it can't be bound.

    A wildcard address (0.0.0.0, ::, none) covers IPv4 and IPv6, as in Go.
    """
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.SockSite(runner, _listening(host, port, shared)).start()
        yield
    finally:
        await runner.cleanup()


_Handler = Callable[[web.Request], Awaitable[web.Response]]


def _page(lines: Lines) -> _Handler:
    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="".join(f"{line}\n" for line in lines()))

    return page


def _application(pages: Mapping[str, _Handler]) -> web.Application:
    application = web.Application(client_max_size=MAX_JSON_BYTES)
    application.add_routes([web.route("*", path, handler) for path, handler in pages.items()])
    return application


def _listening(host: str, port: int, shared: bool) -> socket.socket:
    if host in ("", "0.0.0.0", "::") and socket.has_dualstack_ipv6():
        every = ("::", port)
        return socket.create_server(every, family=socket.AF_INET6, reuse_port=shared, dualstack_ipv6=True)
    (family, *_, address), *_ = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return socket.create_server(address[:2], family=family, reuse_port=shared)
