"""The HTTP server: routes, reading of requests, and the pace at which answers are given."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import ValidationError

from demo_model_server.api import ApiRequest, Call, PlainRequest, TextRequest
from demo_model_server.chat import ChatRequest
from demo_model_server.completion import CompletionRequest
from demo_model_server.errors import ApiError, invalid, unknown_model, wrong_media_type
from demo_model_server.messages import MessagesRequest
from demo_model_server.pooling import EmbeddingsRequest, RerankRequest, ScoreRequest
from demo_model_server.responses import ResponsesRequest
from demo_model_server.tokenizing import DetokenizeRequest, TokenizeRequest
from demo_model_server.wire import Json, encode

MAX_BODY = 64 * 2**20  # bytes
DEFAULT_MODEL = "demo-model"

ROUTES: dict[str, type[PlainRequest] | type[TextRequest]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/messages": MessagesRequest,
    "/v1/embeddings": EmbeddingsRequest,
    "/v1/score": ScoreRequest,
    "/v1/rerank": RerankRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}

Streamer: TypeAlias = Callable[[web.Request, web.StreamResponse, Iterator[bytes]], Awaitable[None]]
"""Writes the events of a stream to a response whose headers are sent. It may stop before the last one."""

Asked = TypeVar("Asked", bound=ApiRequest)


@dataclass(frozen=True, slots=True)
class Settings:
    """`strict` refuses models that are not in `models`; `delay_s` passes before each token."""

    models: tuple[str, ...] = (DEFAULT_MODEL,)
    strict: bool = False
    delay_s: float = 0.0


def create_app(settings: Settings, stream: Streamer | None = None) -> web.Application:
    """The server as an aiohttp application. `stream` replaces the way streams are written."""
    app = web.Application(middlewares=[errors_as_json], client_max_size=MAX_BODY)
    server = Server(settings, stream or paced(settings.delay_s))
    app.router.add_get("/health", health)
    app.router.add_get("/version", version)
    app.router.add_get("/v1/models", server.list_models)
    for path, kind in ROUTES.items():
        app.router.add_post(path, server.endpoint(kind))
    return app


def paced(delay_s: float) -> Streamer:
    """Write one event every `delay_s` seconds."""

    async def write(request: web.Request, response: web.StreamResponse, events: Iterator[bytes]) -> None:
        for event in events:
            await asyncio.sleep(delay_s)
            await response.write(event)

    return write


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error as vLLM does: its own in an `error` object, those of its HTTP framework as a `detail`."""
    try:
        return await handler(request)
    except ApiError as error:
        return json_response(error.body, status=error.status)
    except web.HTTPException as error:
        return json_response({"detail": error.reason}, status=error.status)


def json_response(body: Json, status: int = 200) -> web.Response:
    return web.Response(body=encode(body), status=status, content_type="application/json")


async def health(request: web.Request) -> web.Response:
    return web.Response()


async def version(request: web.Request) -> web.Response:
    return json_response({"version": "demo"})


class Server:
    """What the routes share."""

    def __init__(self, settings: Settings, stream: Streamer) -> None:
        self._settings = settings
        self._stream = stream
        self._started = int(time.time())

    async def list_models(self, request: web.Request) -> web.Response:
        about: Json = {"object": "model", "created": self._started, "owned_by": "demo_model_server"}
        return json_response({"object": "list", "data": [{"id": name} | about for name in self._settings.models]})

    def endpoint(self, kind: type[PlainRequest] | type[TextRequest]) -> Handler:
        """The handler of the route that takes requests of one kind."""

        async def handle(request: web.Request) -> web.StreamResponse:
            asked = await read(request, kind)
            call = Call(request.headers.get("x-request-id") or uuid.uuid4().hex, int(time.time()), self._model(asked))
            if isinstance(asked, PlainRequest):
                return json_response(asked.respond(call))
            return await self._text(request, asked, call)

        return handle

    async def _text(self, request: web.Request, asked: TextRequest, call: Call) -> web.StreamResponse:
        answer = asked.answer()
        if not asked.stream:
            await asyncio.sleep(self._settings.delay_s * answer.completion_tokens)
            return json_response(asked.whole(call, answer))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        await self._stream(request, response, asked.events(call, answer))
        return response

    def _model(self, asked: ApiRequest) -> str:
        """The name to answer under. Raises ApiError for a model that a strict server does not have."""
        name = asked.model or self._settings.models[0]
        if self._settings.strict and name not in self._settings.models:
            raise unknown_model(name)
        return name


async def read(request: web.Request, kind: type[Asked]) -> Asked:
    """The body of a request. Raises ApiError when it is not JSON of the right shape."""
    if request.content_type != "application/json":
        raise wrong_media_type()
    try:
        return kind.model_validate_json(await request.read())
    except ValidationError as error:
        raise invalid(error) from error
