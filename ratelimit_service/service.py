"""The gRPC methods of the limiter: Envoy's `RateLimitService`; `Settlements`, by which accesslog_service reports how
requests ended; and `Usage`. Protobuf in, protobuf out."""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence

from gatehouse.contract.asks import NOTHING_SAID, Asks, parsed
from gatehouse.contract.errors import AUTH_UNAVAILABLE, LIMITS_UNAVAILABLE, OVERLOADED, ClientError
from gatehouse.contract.names import DOMAIN
from gatehouse.pb.base_pb2 import HeaderValue
from gatehouse.pb.rls_pb2 import RateLimitRequest, RateLimitResponse
from gatehouse.pb.settlement_pb2 import Settlement as Settled
from gatehouse.pb.settlement_pb2 import SettleRequest, SettleResponse
from gatehouse.pb.usage_pb2 import UsageRequest, UsageResponse
from gatehouse.rpc.service import Code, Context, Unary
from ratelimit_service.answer import Headers, headers, refusal
from ratelimit_service.caller import Caller, caller
from ratelimit_service.estimate.guess import Tokens, uncounted
from ratelimit_service.metrics import Metrics
from ratelimit_service.ok_response import passed
from ratelimit_service.plan import Plan, Plans
from ratelimit_service.store.port import Ask, Decision, Settlement, Store, StoreUnavailable
from ratelimit_service.waiting_room import Room

LEASE_RELEASE_LAG_S = 0.15
LEASE_RETRY_STEP_S = 0.03
"""The end of a request is known here some 50 ms after the client knows it. A client that makes one call after another
must not be refused because of the one before: a request that only a lease refuses waits this long and retries at each
step."""

DEGRADED = ("x-ratelimit-degraded", "true")
"""Marks an answer that was not decided by the counts that all gateways share."""

SETTLED_AT_ONCE = 32
"""A batch is settled in slices with decisions in between: no request waits for hundreds of settlements."""

LOG_EVERY_S = 60.0

_UNLIMITED = passed(())

_SMALL = Asks(max_tokens=1)
"""The request that a usage report assumes when it is asked about none."""

log = logging.getLogger(__name__)


class RateLimits:
    """Answers for the gateway's own domain; other domains have no limits here. `index` is the number of this worker."""

    def __init__(self, plans: Plans, store: Store, metrics: Metrics, index: int = 0, room: Room | None = None) -> None:
        self._plans = plans
        self._store = store
        self._metrics = metrics
        self._index = index
        self._room = room or Room()
        self._log_again_at = 0.0

    def adopt(self, plans: Plans) -> None:
        """Apply other limits. Counts stay: buckets are named by holder, measure, period and algorithm. So a new amount
        refills nothing, and a new period or algorithm starts at zero."""
        self._plans = plans

    @property
    def methods(self) -> Mapping[str, Mapping[str, Unary]]:
        """The gRPC methods to serve."""
        should = Unary(self.should_rate_limit, RateLimitRequest.FromString, encode=bytes)
        settle = Unary(self.settle, SettleRequest.FromString, SettleResponse.SerializeToString)
        report = Unary(self.report, UsageRequest.FromString, UsageResponse.SerializeToString)
        return {
            "envoy.service.ratelimit.v3.RateLimitService": {"ShouldRateLimit": should},
            "gatehouse.v1.Settlements": {"Settle": settle},
            "gatehouse.v1.Usage": {"Report": report},
        }

    async def should_rate_limit(self, request: RateLimitRequest, _context: Context) -> bytes:
        """One decision over all limits of the request. Returns a serialized `RateLimitResponse`.

        Without a decision the request is refused, too, and Envoy answers 503 (`gatehouse.envoy.local_replies`): the
        store is unavailable and the policy is to deny, too many calls wait, or the caller is not identified.
        """
        if request.domain != DOMAIN or not request.descriptors:
            return _UNLIMITED
        who = caller(request.descriptors[0].entries)
        if not self._plans.identifies(who):
            return self._unidentified()
        plan = self._plans.plan(who)
        if not plan.rules and not plan.concurrency:
            return _UNLIMITED
        if not self._room.enter(who.user):
            self._metrics.on_overrun()
            return _OVERRUN
        try:
            decision = await self._decide(plan.ask)
        except StoreUnavailable:
            return _UNDECIDED
        finally:
            self._room.leave(who.user)
        self._metrics.decided(decision)
        return self._allowed(plan, decision) if decision.allowed else _refused(plan, decision, who)

    async def settle(self, request: SettleRequest, context: Context) -> SettleResponse:
        """Take a batch of ended and running requests. UNAVAILABLE means: send all of it again; that is harmless."""
        try:
            for entries in _slices(request.settlements):
                await self._settle(entries)
                await asyncio.sleep(0)
        except StoreUnavailable as error:
            await context.abort(Code.UNAVAILABLE, f"the limit store is unavailable: {error.kind}")
        return SettleResponse()

    async def _settle(self, entries: Sequence[Settled]) -> None:
        done = [entry for entry in entries if entry.kind == Settled.DONE]
        running = [entry for entry in entries if entry.kind == Settled.RENEW]
        if done:
            await self._store.settle([self._settlement(entry) for entry in done])
        if running:
            await self._store.renew([r for entry in running for r in self._plans.renewals(_ended(entry))])

    async def report(self, request: UsageRequest, context: Context) -> UsageResponse:
        """What is left of a caller's limits, and whether a request would pass now. Consumes nothing."""
        who = Caller(
            request.user,
            request.team,
            request.tier,
            request.key_id,
            request.model,
            asks=parsed(request.asks) or _SMALL,
            key_limits=request.key_limits,
            key_family=request.key_family,
        )
        plan = self._plans.plan(who)
        try:
            decision = await self._store.peek(plan.ask)
        except StoreUnavailable as error:
            await context.abort(Code.UNAVAILABLE, f"the limit store is unavailable: {error.kind}")
        return _report(plan, decision, who, self._plans.guess(who))

    def _settlement(self, entry: Settled) -> Settlement:
        """A batch that is sent again is learned from twice; that is rare, and guesses are rough anyway."""
        who = _ended(entry)
        used = self._used(entry, who)
        if used and entry.complete and entry.HasField("output_tokens") and not entry.late:
            self._plans.learn(who, used)
        return self._plans.settlement(who, used, late=entry.late)

    def _used(self, entry: Settled, who: Caller) -> Tokens | None:
        """The tokens used; None when unknown."""
        if entry.counted:
            prompt = entry.input_tokens if entry.HasField("input_tokens") else self._plans.guess(who).input
            return Tokens(prompt, entry.output_tokens, entry.cached_tokens)
        return uncounted(who.asks, self._plans.guess(who), entry.answer_bytes) if entry.complete else None

    async def _decide(self, ask: Ask) -> Decision:
        decision = await self._store.decide(ask)
        waited = 0.0
        while decision.only_leases_refuse and waited < LEASE_RELEASE_LAG_S:
            await asyncio.sleep(LEASE_RETRY_STEP_S)
            waited += LEASE_RETRY_STEP_S
            decision = await self._store.decide(ask)
        return decision

    def _unidentified(self) -> bytes:
        self._metrics.on_unidentified()
        now = asyncio.get_running_loop().time()
        if now >= self._log_again_at:
            self._log_again_at = now + LOG_EVERY_S
            log.error("refusing requests without user, tier or key, or with a tier that is not configured")
        return _UNIDENTIFIED

    def _allowed(self, plan: Plan, decision: Decision) -> bytes:
        if not decision.degraded:
            return passed(headers(plan, decision))
        if not plan.concurrency:
            return passed([*headers(plan, decision), DEGRADED])
        response = RateLimitResponse(
            overall_code=RateLimitResponse.OK, response_headers_to_add=_pairs([*headers(plan, decision), DEGRADED])
        )
        response.dynamic_metadata.update({"leased_by": self._index})  # the worker to settle with
        return response.SerializeToString()


def _slices(entries: Sequence[Settled]) -> Iterator[Sequence[Settled]]:
    for begin in range(0, len(entries), SETTLED_AT_ONCE):
        yield entries[begin : begin + SETTLED_AT_ONCE]


def _ended(entry: Settled) -> Caller:
    return Caller(
        entry.user,
        entry.team,
        entry.tier,
        entry.key_id,
        entry.model,
        entry.request_id,
        parsed(entry.asks) or NOTHING_SAID,
        key_limits=entry.key_limits,
        key_family=entry.key_family,
    )


def _refused(plan: Plan, decision: Decision, who: Caller) -> bytes:
    answer = refusal(plan, decision, who)
    response = RateLimitResponse(
        overall_code=RateLimitResponse.OVER_LIMIT,
        response_headers_to_add=_pairs(answer.headers + ([DEGRADED] if decision.degraded else [])),
        raw_body=answer.error.json(),
    )
    response.dynamic_metadata.update({"limited_by": answer.limited_by, "error_code": answer.error.code})
    return response.SerializeToString()


def _pairs(pairs: Headers) -> list[HeaderValue]:
    return [HeaderValue(key=name, value=value) for name, value in pairs]


def _no_decision(error: ClientError, *more: tuple[str, str]) -> bytes:
    retry = ("retry-after", str(error.retry_after_s))
    response = RateLimitResponse(
        overall_code=RateLimitResponse.OVER_LIMIT,
        response_headers_to_add=_pairs([retry, ("content-type", "application/json"), *more]),
        raw_body=error.json(),
    )
    response.dynamic_metadata.update({"error_code": error.code})
    return response.SerializeToString()


_UNDECIDED = _no_decision(LIMITS_UNAVAILABLE, DEGRADED)
_OVERRUN = _no_decision(OVERLOADED)
_UNIDENTIFIED = _no_decision(AUTH_UNAVAILABLE)


def _report(plan: Plan, decision: Decision, who: Caller, guess: Tokens) -> UsageResponse:
    """Without the store there may be no outcomes, and then no limits to report."""
    response = UsageResponse(degraded=decision.degraded, guessed_input=guess.input, guessed_output=guess.output)
    for rule, outcome in zip(plan.rules, decision.outcomes, strict=False):
        response.windows.add(
            name=rule.limit.name,
            scope=rule.scope,
            measure=rule.measure,
            limit=rule.limit.amount,
            remaining=outcome.remaining,
            reset_after_ms=outcome.reset_after_ms,
            shadow=rule.limit.shadow,
        )
    for lease, held in zip(plan.concurrency, decision.leases, strict=False):
        response.running.add(
            name=lease.name, scope=lease.scope, limit=lease.most, in_use=held.in_use, shadow=lease.shadow
        )
    if not decision.allowed:
        error = refusal(plan, decision, who).error
        response.refusal, response.refusal_code = error.message, error.code
    return response
