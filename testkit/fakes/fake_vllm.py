"""A vLLM to test against: the demo model server on a thread of its own, with a script of what goes wrong.

    with FakeVllm() as backend:
        backend.script = Script(die_after=4)
        ...  # send a request to backend.url, or through a gateway in front of it
        assert backend.requests[0].json()["model"] == "m"

Its attributes may be set at any time and hold for the requests that arrive after.
"""

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler
from multidict import CIMultiDict, CIMultiDictProxy

from demo_model_server.app import DEFAULT_MODEL, Settings, create_app
from testkit.fakes.script import DIED, Script, die

SETTLED_S = 10.0  # the longest that starting or stopping may take
GRACE_S = 0.01  # for handlers, when the server stops: none to speak of

SCRIPT = web.RequestKey("script", Script)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request as it arrived: `path` with its query, headers in any case, the raw bytes of the body."""

    method: str
    path: str
    headers: CIMultiDictProxy[str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class FakeVllm:
    """A context manager that serves on one free port of 127.0.0.1.

    `requests` holds every request but those to `/health`, which answers 503 while not `healthy`. `running` counts the
    requests in progress, `aborted` those whose client disconnected before the end. With key and certificate
    it speaks TLS.
    """

    def __init__(
        self,
        models: tuple[str, ...] = (DEFAULT_MODEL,),
        *,
        strict: bool = False,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        self.script = Script()
        self.healthy = True
        self.requests: list[Recorded] = []
        self.running = 0
        self.aborted = 0
        self._settings = Settings(models, strict)
        self._tls = None if certificate is None else _tls(*certificate)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-vllm", daemon=True)
        self._reserved = _reserved_port()
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        number: int = self._reserved.getsockname()[1]
        return number

    @property
    def url(self) -> str:
        """The root: `/v1` is not part of it."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self.up()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._reserved.close()

    def up(self) -> None:
        """Listen, on the same port every time. Without effect while listening."""
        if self._runner is None:
            self._runner = self._settled(self._listen())

    def down(self) -> None:
        """Stop listening and cut every connection, as a killed process does. Without effect while down."""
        runner, self._runner = self._runner, None
        if runner is not None:
            self._settled(runner.cleanup())

    def _settled(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SETTLED_S)

    async def _listen(self) -> web.AppRunner:
        app = create_app(self._settings, stream=_stream)
        app.middlewares.append(self._counted)
        app.middlewares.append(_scripted)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=GRACE_S)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True, backlog=1024, ssl_context=self._tls)
        await site.start()
        return runner

    @web.middleware
    async def _counted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Record the request, give it its script, and count how it ends."""
        if request.path == "/health":
            return await handler(request) if self.healthy else web.Response(status=503)
        request[SCRIPT] = self.script
        self.running += 1
        try:
            self.requests.append(await _recorded(request))
            return await handler(request)
        except (asyncio.CancelledError, ConnectionError):
            self.aborted += self._runner is not None and not request.get(DIED)
            raise
        finally:
            self.running -= 1


@web.middleware
async def _scripted(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What a script does before the headers of an answer."""
    script = request.get(SCRIPT, Script())
    await asyncio.sleep(script.headers_after_s)
    if script.die_before_headers:
        await die(request)
    if script.status is not None:
        return web.Response(status=script.status, headers=script.headers, body=script.body)
    return await handler(request)


async def _stream(request: web.Request, response: web.StreamResponse, events: Iterator[bytes]) -> None:
    await request[SCRIPT].play(request, response, events)


async def _recorded(request: web.Request) -> Recorded:
    headers = CIMultiDictProxy(CIMultiDict(request.headers))
    return Recorded(request.method, request.path_qs, headers, await request.read())


def _tls(key: Path, certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


def _reserved_port() -> socket.socket:
    """A socket that holds a free port without listening: while the server is down, no one else can take it."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held
