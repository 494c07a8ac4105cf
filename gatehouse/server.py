"""The gRPC shell that every service runs in: bind, health, drain, limits.

A service gives its methods as functions over bytes and protobuf messages; the shell knows nothing of what they decide.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from gatehouse.pb import health_pb2

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Envoy batches log entries up to about 16 KiB and sends a few headers to authz: more is not Envoy."""

MAX_STREAMS = 4096

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
]

Context = aio.ServicerContext[Any, Any]
Decode = Callable[[bytes], Any]
Encode = Callable[[Any], bytes]


@dataclass(frozen=True, slots=True)
class Unary:
    """One request, one answer: `Check`, `ShouldRateLimit`."""

    call: Callable[[Any, Context], Awaitable[Any]]
    decode: Decode
    encode: Encode


@dataclass(frozen=True, slots=True)
class ClientStream:
    """Many requests, one answer at the end: `StreamAccessLogs`."""

    call: Callable[[AsyncIterator[Any], Context], Awaitable[Any]]
    decode: Decode
    encode: Encode


@dataclass(slots=True)
class Health:
    """What the service says of itself over `grpc.health.v1.Health`; Envoy's active health checks read it."""

    serving: bool = False

    async def check(self, _request: Any, _context: Context) -> health_pb2.HealthCheckResponse:
        status = health_pb2.HealthCheckResponse.ServingStatus
        return health_pb2.HealthCheckResponse(status=status.SERVING if self.serving else status.NOT_SERVING)


@dataclass(frozen=True, slots=True)
class Tcp:
    """A TCP address to listen on: with `credentials` over TLS, else in the clear."""

    host: str
    port: int
    credentials: grpc.ServerCredentials | None = None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Option = tuple[str, int]
"""A gRPC channel argument, such as `("grpc.max_connection_age_ms", 60_000)`."""


@dataclass(slots=True)
class Service:
    """gRPC services by full name, each a table of methods: `{"grpc.pkg.Name": {"Method": Unary(…)}}`."""

    methods: Mapping[str, Mapping[str, Unary | ClientStream]]
    health: Health = field(default_factory=Health)


async def serve(
    service: Service, address: Path | Tcp, stop: asyncio.Event, grace_s: float, options: Sequence[Option] = ()
) -> None:
    """Answer on `address`, a path being a unix socket, until `stop` is set; then finish for up to `grace_s` seconds.

    Health says NOT_SERVING while draining. The socket is gone when this returns. Raises `OSError` when it can't bind.
    """
    server = aio.server(options=list((dict(_OPTIONS) | dict(options)).items()))
    health = {"grpc.health.v1.Health": {"Check": _health_method(service.health)}}
    server.add_generic_rpc_handlers([_handler(name, table) for name, table in {**service.methods, **health}.items()])
    _bind(server, address)
    await server.start()
    service.health.serving = True
    log.info("serving on %s", address)
    try:
        await stop.wait()
    finally:
        service.health.serving = False
        await server.stop(grace_s)
        if isinstance(address, Path):
            address.unlink(missing_ok=True)  # noqa: ASYNC240 - one system call, at the very end
        log.info("stopped")


def _bind(server: aio.Server, address: Path | Tcp) -> None:
    try:
        if isinstance(address, Tcp):
            _bind_tcp(server, address)
        else:
            _bind_unix(server, address)
    except RuntimeError as error:
        raise OSError(f"can't listen on {address}: {error}") from None


def _bind_unix(server: aio.Server, socket: Path) -> None:
    socket.parent.mkdir(parents=True, exist_ok=True)
    socket.unlink(missing_ok=True)  # left by a process that was killed
    server.add_insecure_port(f"unix:{socket}")
    socket.chmod(0o660)


def _bind_tcp(server: aio.Server, address: Tcp) -> None:
    if address.credentials is None:
        server.add_insecure_port(str(address))
    else:
        server.add_secure_port(str(address), address.credentials)


def _health_method(health: Health) -> Unary:
    return Unary(
        health.check, health_pb2.HealthCheckRequest.FromString, health_pb2.HealthCheckResponse.SerializeToString
    )


def _handler(name: str, table: Mapping[str, Unary | ClientStream]) -> "grpc.GenericRpcHandler[Any, Any]":
    make = {Unary: grpc.unary_unary_rpc_method_handler, ClientStream: grpc.stream_unary_rpc_method_handler}
    handlers = {method: make[type(spec)](spec.call, spec.decode, spec.encode) for method, spec in table.items()}
    return grpc.method_handlers_generic_handler(name, handlers)
