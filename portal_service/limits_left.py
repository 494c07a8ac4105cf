"""Asks ratelimit_service what is left of a caller's limits (`gatehouse.v1.Usage`). Consumes nothing."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from gatehouse.contract.failures import GatehouseError
from gatehouse.pb.usage_pb2 import UsageRequest, UsageResponse
from gatehouse.rpc.http2.client import CallFailedError, Client

METHOD = "/gatehouse.v1.Usage/Report"
TIMEOUT_S = 1.0


class LimiterUnavailableError(GatehouseError):
    """No worker of ratelimit_service answered."""


class LimitsLeft:
    """What is left, as plain data. `sockets` belong to the ratelimit workers; the first to answer is used."""

    def __init__(self, sockets: Sequence[Path]) -> None:
        self._sockets = sockets

    async def of(
        self,
        user: str,
        team: str,
        tier: str,
        key_id: str,
        model: str,
        *,
        key_limits: str = "",
        key_family: str = "",
        asks: str = "",
    ) -> dict[str, Any]:
        """The limits of a caller, and how they would judge a request for `asks` (`gatehouse.contract.asks`), or a small
        one if that is empty. Raises `LimiterUnavailableError`."""
        request = UsageRequest(
            user=user,
            team=team,
            tier=tier,
            key_id=key_id,
            model=model,
            key_limits=key_limits,
            key_family=key_family,
            asks=asks,
        )
        for socket in self._sockets:
            try:
                return _plain(await _asked(socket, request))
            except CallFailedError:
                continue
        raise LimiterUnavailableError


async def _asked(socket: Path, request: UsageRequest) -> UsageResponse:
    with closing(Client(socket)) as limiter:
        return UsageResponse.FromString(await limiter.call(METHOD, request.SerializeToString(), TIMEOUT_S))


def _plain(response: UsageResponse) -> dict[str, Any]:
    refusal = {"code": response.refusal_code, "message": response.refusal} if response.refusal else None
    limits = [_window(window) for window in response.windows]
    limits += [
        {"name": r.name, "scope": r.scope, "limit": r.limit, "used": r.in_use, "remaining": max(0, r.limit - r.in_use)}
        for r in response.running
    ]
    guess = {"input": response.guessed_input, "output": response.guessed_output}
    return {"limits": limits, "refusal": refusal, "guess": guess, "degraded": response.degraded}


def _window(window: UsageResponse.Window) -> dict[str, Any]:
    """Budgets are counted in millionths of a dollar, and shown in dollars."""
    unit = 1e6 if window.measure == "budget" else 1
    return {
        "name": window.name,
        "scope": window.scope,
        "limit": window.limit / unit if unit > 1 else window.limit,
        "used": (window.limit - window.remaining) / unit if unit > 1 else window.limit - window.remaining,
        "remaining": window.remaining / unit if unit > 1 else window.remaining,
        "reset_s": window.reset_after_ms / 1000,
        "shadow": window.shadow,
    }
