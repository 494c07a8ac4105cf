"""`envoy.service.ratelimit.v3.RateLimitService` over the store: protobuf in, protobuf out."""

import logging
from collections.abc import Mapping

import grpc

from gatehouse.pb.base_pb2 import HeaderValue
from gatehouse.pb.rls_pb2 import RateLimitRequest, RateLimitResponse
from gatehouse.server import Context, Unary
from ratelimit_service.answer import Headers, headers, refusal
from ratelimit_service.caller import DOMAIN, caller
from ratelimit_service.metrics import Metrics
from ratelimit_service.store import Decision, Store, StoreUnavailable
from ratelimit_service.tiers import Tiers

log = logging.getLogger(__name__)

NAME = "envoy.service.ratelimit.v3.RateLimitService"
_OK = RateLimitResponse(overall_code=RateLimitResponse.OK)


class RateLimits:
    """Answers `ShouldRateLimit` for the gateway's own domain; other domains have no limits."""

    def __init__(self, tiers: Tiers, store: Store, metrics: Metrics) -> None:
        self._tiers = tiers
        self._store = store
        self._metrics = metrics

    @property
    def methods(self) -> Mapping[str, Mapping[str, Unary]]:
        """What the gRPC shell serves."""
        should = Unary(self.should_rate_limit, RateLimitRequest.FromString, RateLimitResponse.SerializeToString)
        return {NAME: {"ShouldRateLimit": should}}

    async def should_rate_limit(self, request: RateLimitRequest, context: Context) -> RateLimitResponse:
        """One decision over every limit of the request.

        Without the store there is no decision: the call fails with UNAVAILABLE, and Envoy lets the request pass.
        """
        if request.domain != DOMAIN or not request.descriptors:
            return _OK
        who = caller(request.descriptors[0].entries)
        ask = self._tiers.ask(who)
        if not ask.charges:
            return _OK
        try:
            decision = await self._store.decide(ask)
        except StoreUnavailable as error:
            self._metrics.failed(error)
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"the limit store is unavailable: {error.kind}")
        self._metrics.decided(decision)
        return _allowed(decision) if decision.allowed else _refused(decision, who.tier)


def _allowed(decision: Decision) -> RateLimitResponse:
    return RateLimitResponse(overall_code=RateLimitResponse.OK, response_headers_to_add=_pairs(headers(decision)))


def _refused(decision: Decision, tier: str) -> RateLimitResponse:
    answer = refusal(decision, tier)
    response = RateLimitResponse(
        overall_code=RateLimitResponse.OVER_LIMIT,
        response_headers_to_add=_pairs(answer.headers),
        raw_body=answer.body,
    )
    response.dynamic_metadata.update({"limited_by": answer.limited_by, "error_code": "rate_limit_exceeded"})
    return response


def _pairs(pairs: Headers) -> list[HeaderValue]:
    return [HeaderValue(key=name, value=value) for name, value in pairs]
