"""Answers Envoy's rate limit calls in the place of ratelimit_service, when Envoy finds no worker of that to ask.

Whether a service that does not answer is away, busy, or back by now, Envoy can't tell. So it is asked here once more: a
worker that lives gets the call, and if it does not answer, the request is refused: nobody passes uncounted because the
service is busy. Where nobody lives the request passes, marked and counted in a metric.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, Counter

from gatehouse.contract.errors import OVERLOADED
from gatehouse.pb.rls_pb2 import RateLimitResponse
from gatehouse.rpc.health_client import serves
from gatehouse.rpc.http2.client import CallFailedError, Client
from gatehouse.rpc.service import Context, Unary

_DECIDE = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
_LIVES_IN_S = 0.8
"""Whoever lives says so within this, however busy."""
_KNOWN_FOR_S = 0.25
_LOOKS = 2
"""One that has died since the first look is seen to be dead at the second."""


class StandIn:
    """`sockets` are those of the ratelimit workers."""

    def __init__(self, sockets: Sequence[Path], registry: CollectorRegistry = REGISTRY) -> None:
        self._sockets = sockets
        self._passed = Counter(
            "api_rate_limit_bypassed_total",
            "Requests that passed because ratelimit_service is away.",
            registry=registry,
        )
        self._look: asyncio.Task[list[Path]] | None = None

    @property
    def methods(self) -> Mapping[str, Mapping[str, Unary]]:
        """What the gRPC shell serves."""
        should = Unary(self.should_rate_limit, bytes, encode=bytes)
        return {"envoy.service.ratelimit.v3.RateLimitService": {"ShouldRateLimit": should}}

    async def should_rate_limit(self, request: bytes, _context: Context) -> bytes:
        """A serialized `RateLimitResponse`."""
        for _ in range(_LOOKS):
            living = await self._living()
            if not living:
                self._passed.inc()
                return _PASSED
            answer = await _asked(random.choice(living), request)
            if answer is not None:
                return answer
            self._forget()
        return _BUSY

    async def _living(self) -> list[Path]:
        """The workers that live. All calls of a moment share one look."""
        if self._look is None:
            self._look = asyncio.create_task(self._looked())
            self._look.add_done_callback(self._forget_soon)
        return await asyncio.shield(self._look)

    def _forget_soon(self, _look: "asyncio.Task[list[Path]]") -> None:
        asyncio.get_running_loop().call_later(_KNOWN_FOR_S, self._forget)

    def _forget(self) -> None:
        self._look = None

    async def _looked(self) -> list[Path]:
        lives = await asyncio.gather(*(serves(socket, _LIVES_IN_S) for socket in self._sockets))
        return [socket for socket, yes in zip(self._sockets, lives, strict=True) if yes]


async def _asked(socket: Path, request: bytes) -> bytes | None:
    with closing(Client(socket)) as worker:
        try:
            return await worker.call(_DECIDE, request, _LIVES_IN_S)
        except CallFailedError:
            return None


def _answer(code: RateLimitResponse.Code, *headers: tuple[str, str]) -> RateLimitResponse:
    response = RateLimitResponse(overall_code=code)
    for key, value in headers:
        response.response_headers_to_add.add(key=key, value=value)
    return response


def _refusal() -> bytes:
    retry = ("retry-after", str(OVERLOADED.retry_after_s))
    response = _answer(RateLimitResponse.OVER_LIMIT, retry, ("content-type", "application/json"))
    response.raw_body = OVERLOADED.json()
    response.dynamic_metadata.update({"error_code": OVERLOADED.code})
    return response.SerializeToString()


_PASSED = _answer(RateLimitResponse.OK, ("x-ratelimit-degraded", "true")).SerializeToString()
_BUSY = _refusal()
