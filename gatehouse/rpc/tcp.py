"""The same methods over TCP, in plaintext or with TLS, by grpcio: for callers on other machines."""

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from grpc import aio

from gatehouse.rpc.service import MAX_MESSAGE_BYTES, MAX_STREAMS, ClientStream, Code, Method, Unary, called

Option = tuple[str, int]
"""A gRPC channel argument, such as `("grpc.max_connection_age_ms", 60_000)`."""

_OPTIONS = {
    "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
    "grpc.max_concurrent_streams": MAX_STREAMS,
    "grpc.so_reuseport": 0,
    "grpc.http2.min_ping_interval_without_data_ms": 5000,
}
_STATUS = {status.value[0]: status for status in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class Tcp:
    """A TCP address to listen on: with `credentials` over TLS, else in plaintext."""

    host: str
    port: int
    credentials: grpc.ServerCredentials | None = None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Listener:
    """Serves on a TCP address. Call `bind`, then `close`, once each."""

    def __init__(self, methods: Mapping[str, Method], options: Sequence[Option] = ()) -> None:
        self._server = aio.server(options=list({**_OPTIONS, **dict(options)}.items()))
        self._server.add_generic_rpc_handlers([_handler(path, method) for path, method in methods.items()])

    async def bind(self, address: Tcp) -> None:
        """Accept connections. Raises `OSError`."""
        try:
            if address.credentials is None:
                self._server.add_insecure_port(str(address))
            else:
                self._server.add_secure_port(str(address), address.credentials)
        except RuntimeError as error:
            raise OSError(str(error)) from None
        await self._server.start()

    async def close(self, grace_s: float) -> None:
        """Accept no new calls, and let running ones finish for up to `grace_s` seconds."""
        await self._server.stop(grace_s)


class _Context:
    """`rpc.Context` over grpcio's."""

    def __init__(self, context: "aio.ServicerContext[Any, Any]") -> None:
        self._context = context

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        return [(name, value) for name, value in self._context.invocation_metadata() or () if isinstance(value, str)]

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        return {name: list(values) for name, values in self._context.auth_context().items()}

    async def abort(self, code: Code, details: str) -> NoReturn:
        await self._context.abort(_STATUS[code], details)
        raise AssertionError("abort returns to nobody")


def _handler(path: str, method: Method) -> "grpc.GenericRpcHandler[Any, Any]":
    service, _, name = path[1:].partition("/")
    make: Callable[..., Any] = grpc.unary_unary_rpc_method_handler
    if isinstance(method, ClientStream):
        make = grpc.stream_unary_rpc_method_handler
    handler = make(_wrapped(method), method.decode, method.encode)
    return grpc.method_handlers_generic_handler(service, {name: handler})


def _wrapped(method: Method) -> Callable[[Any, Any], Coroutine[Any, Any, Any]]:
    if isinstance(method, Unary):

        async def unary(request: Any, context: "aio.ServicerContext[Any, Any]") -> Any:
            return await called(method, request, _Context(context))

        return unary

    async def stream(requests: AsyncIterator[Any], context: "aio.ServicerContext[Any, Any]") -> Any:
        return await method.call(requests, _Context(context))

    return stream
