"""The parts of a gRPC service, for any transport: methods as functions, their context, status codes, health."""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NoReturn, Protocol

from gatehouse.pb import health_pb2

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Envoy batches log entries up to about 128 KiB and sends a few headers to authz: larger messages are not Envoy's."""

MAX_STREAMS = 4096
"""Concurrent calls of a connection."""


class Code(IntEnum):
    """The gRPC status codes used here (gRPC, statuscodes.md)."""

    OK = 0
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class Context(Protocol):
    """A method's view of its call, and a way to reject it."""

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        """The call's headers."""
        ...

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """What TLS verified about the caller, by gRPC's names; empty on a unix socket."""
        ...

    async def abort(self, code: Code, details: str) -> NoReturn:
        """End the call with a status instead of a response. `details` is plain ASCII for the caller's operator."""
        ...


Decode = Callable[[bytes], Any]
Encode = Callable[[Any], bytes]


@dataclass(frozen=True, slots=True)
class Unary:
    """One request, one response: `Check`, `ShouldRateLimit`.

    `call` is a coroutine function, or a plain function, which avoids creating a task.
    """

    call: Callable[[Any, Context], "Coroutine[Any, Any, Any] | Any"]
    decode: Decode
    encode: Encode


@dataclass(frozen=True, slots=True)
class ClientStream:
    """Many requests, one response at the end: `StreamAccessLogs`."""

    call: Callable[[AsyncIterator[Any], Context], Coroutine[Any, Any, Any]]
    decode: Decode
    encode: Encode


Method = Unary | ClientStream
Methods = Mapping[str, Mapping[str, Method]]
"""gRPC services by full name, each a table of methods: `{"grpc.pkg.Name": {"Method": Unary(…)}}`."""


async def called(method: Unary, request: Any, context: Context) -> Any:
    """The response of a unary method, from a coroutine or a plain function."""
    answer = method.call(request, context)
    return await answer if isinstance(answer, Awaitable) else answer


@dataclass(slots=True)
class Health:
    """The service's status over `grpc.health.v1.Health`, for Envoy's active health checks."""

    serving: bool = False

    async def check(self, _request: Any, _context: Context) -> health_pb2.HealthCheckResponse:
        status = health_pb2.HealthCheckResponse.ServingStatus
        return health_pb2.HealthCheckResponse(status=status.SERVING if self.serving else status.NOT_SERVING)


@dataclass(slots=True)
class Service:
    """The methods of a process, and its health."""

    methods: Methods
    health: Health = field(default_factory=Health)

    def by_path(self) -> dict[str, Method]:
        """Every method, including health, by its path: `/package.Service/Method`."""
        request, response = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        check = Unary(self.health.check, request.FromString, response.SerializeToString)
        tables = {**self.methods, "grpc.health.v1.Health": {"Check": check}}
        return {f"/{name}/{method}": spec for name, table in tables.items() for method, spec in table.items()}
