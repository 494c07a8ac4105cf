"""`envoy.service.ratelimit.v3.RateLimitService`, as envoyproxy/ratelimit answers it, over gRPC and as JSON."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration

from gatehouse.pb.base_pb2 import HeaderValue
from gatehouse.pb.ratelimit_pb2 import RateLimitDescriptor
from gatehouse.pb.rls_pb2 import RateLimitRequest, RateLimitResponse
from gatehouse.rpc.service import Code as RpcCode
from gatehouse.rpc.service import Context, Unary
from ratelimit_service.dropin import answer
from ratelimit_service.dropin.config.rules import Rules
from ratelimit_service.dropin.decide import Code, Modes, Question, Status, Verdict
from ratelimit_service.dropin.logs import Seldom
from ratelimit_service.dropin.match import Descriptor, Override, RequestError, matches, sanitised
from ratelimit_service.dropin.stats import Stats
from ratelimit_service.store.port import Decision, Store, StoreUnavailable

log = logging.getLogger(__name__)

NAME = "envoy.service.ratelimit.v3.RateLimitService"
_MAX_UINT32 = 2**32 - 1
_CODES = {Code.OK: RateLimitResponse.OK, Code.OVER_LIMIT: RateLimitResponse.OVER_LIMIT}
_HTTP = {RateLimitResponse.OK: 200, RateLimitResponse.OVER_LIMIT: 429}


@dataclass(frozen=True, slots=True)
class Options:
    """How answers look. Without `headers` there are none; `admits` says whether a caller may ask at all."""

    modes: Modes
    headers: answer.HeaderNames | None = None
    metadata: bool = False
    admits: Callable[[Context], bool] = lambda _context: True


class RateLimits:
    """Answers requests by `rules()`, which is None as long as there is no configuration."""

    def __init__(self, rules: Callable[[], Rules | None], store: Store, stats: Stats, options: Options) -> None:
        self._rules = rules
        self._store = store
        self._stats = stats
        self._options = options
        self._faults = Seldom(log)

    @property
    def methods(self) -> Mapping[str, Mapping[str, Unary]]:
        """What the gRPC shell serves."""
        should = Unary(self.should_rate_limit, RateLimitRequest.FromString, RateLimitResponse.SerializeToString)
        return {NAME: {"ShouldRateLimit": should}}

    async def should_rate_limit(self, request: RateLimitRequest, context: Context) -> RateLimitResponse:
        """The answer; or an error, which Envoy handles by `failure_mode_deny`."""
        if not self._options.admits(context):
            await context.abort(RpcCode.PERMISSION_DENIED, "the client certificate has another name")
        try:
            return await self._answer(request)
        except RequestError as error:
            await context.abort(RpcCode.INVALID_ARGUMENT, str(error))
        except StoreUnavailable as error:
            await context.abort(RpcCode.UNAVAILABLE, f"the limit store is unavailable: {error.kind}")

    async def answer_json(self, text: bytes) -> tuple[int, str]:
        """HTTP status and body for a request in protobuf's JSON form."""
        try:
            response = await self._answer(json_format.Parse(text, RateLimitRequest()))
        except (json_format.ParseError, UnicodeDecodeError, RequestError, StoreUnavailable) as error:
            log.debug("no answer to a JSON request: %s", error)
            return 400, "Bad Request\n"
        return _HTTP[response.overall_code], json_format.MessageToJson(response, indent=None)

    async def _answer(self, request: RateLimitRequest) -> RateLimitResponse:
        began = time.perf_counter()
        try:
            return await self._decided(request)
        except RequestError:
            self._stats.failed("service_error")
            raise
        except StoreUnavailable as error:
            self._stats.failed("redis_error")
            self._faults.error("a call fails, and others may: the limit store is unavailable: %s", error)
            raise
        finally:
            self._stats.took(time.perf_counter() - began)

    async def _decided(self, request: RateLimitRequest) -> RateLimitResponse:
        rules = self._checked(request)
        if request.domain not in rules:
            self._stats.domain_not_found(sanitised(request.domain), len(request.descriptors))
        descriptors = [_descriptor(descriptor) for descriptor in request.descriptors]
        found = matches(rules, request.domain, descriptors)
        question = Question(descriptors, found, request.hits_addend, self._options.modes)
        ask = question.ask()
        verdict = question.verdict(await self._store.decide(ask) if ask.charges else Decision(True))
        if refunds := question.refunds():
            await self._store.refund(refunds)
        self._stats.answered(verdict)
        return self._response(request, descriptors, verdict)

    def _checked(self, request: RateLimitRequest) -> Rules:
        rules = self._rules()
        if not request.domain:
            raise RequestError("rate limit domain must not be empty")
        if not request.descriptors:
            raise RequestError("rate limit descriptor list must not be empty")
        if rules is None:
            raise RequestError("no rate limit configuration loaded")
        return rules

    def _response(
        self, request: RateLimitRequest, descriptors: list[Descriptor], verdict: Verdict
    ) -> RateLimitResponse:
        response = RateLimitResponse(overall_code=_CODES[verdict.code], statuses=map(_status, verdict.statuses))
        if self._options.headers is not None:
            pairs = answer.headers(verdict, self._options.headers)
            response.response_headers_to_add.extend(HeaderValue(key=name, value=value) for name, value in pairs)
        if self._options.metadata:
            said = answer.metadata(request.domain, descriptors, request.hits_addend, verdict.statuses)
            response.dynamic_metadata.update(said)
        return response


def _descriptor(said: RateLimitDescriptor) -> Descriptor:
    return Descriptor(
        tuple((entry.key, entry.value) for entry in said.entries),
        said.hits_addend.value if said.HasField("hits_addend") else None,
        said.is_negative_hits,
        _override(said.limit) if said.HasField("limit") else None,
    )


def _override(limit: RateLimitDescriptor.RateLimitOverride) -> Override:
    """The unit by its number among those of the answers, which have `WEEK` too."""
    units = RateLimitResponse.RateLimit.Unit
    unit = units.Name(limit.unit) if limit.unit in units.values() else str(limit.unit)
    return Override(limit.requests_per_unit, unit, limit.unit_multiplier.value or 1)


def _status(status: Status) -> RateLimitResponse.DescriptorStatus:
    rate_limit = None if status.match is None else status.match.rate_limit
    if rate_limit is None:
        return RateLimitResponse.DescriptorStatus(code=RateLimitResponse.OK)
    if rate_limit.limit is None:
        return RateLimitResponse.DescriptorStatus(code=RateLimitResponse.OK, limit_remaining=_MAX_UINT32)
    current = RateLimitResponse.RateLimit(
        name=rate_limit.name,
        requests_per_unit=rate_limit.limit.amount,
        unit=rate_limit.unit,
    )
    if rate_limit.multiplier != 1:
        current.unit_multiplier.value = rate_limit.multiplier
    return RateLimitResponse.DescriptorStatus(
        code=_CODES[status.code],
        current_limit=current,
        limit_remaining=min(status.remaining, _MAX_UINT32),
        duration_until_reset=Duration(seconds=status.reset_s),
    )
