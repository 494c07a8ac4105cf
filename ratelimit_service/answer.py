"""A decision as the client sees it: rate-limit headers on every answer, and a complete 429.

Header names and formats are OpenAI's (`x-ratelimit-*-requests` and `-tokens`, resets as `6m0s`), with a pair for the
minute and the hour beside them; `Retry-After` is RFC 9110 §10.2.3 in whole seconds, rounded up so that a client that
obeys it is admitted, and `retry-after-ms` is what OpenAI's clients read first.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from gatehouse.config.model import PERIODS
from gatehouse.contract.errors import INSUFFICIENT_QUOTA, RATE_LIMITED, ClientError
from ratelimit_service.caller import Caller
from ratelimit_service.plan import Plan
from ratelimit_service.rules.rule_set import Concurrency, Rule
from ratelimit_service.store.port import Decision, Outcome

Headers = list[tuple[str, str]]
CONCURRENT_RETRY_MS = 1000
"""Short, since it is unknown when another request will end."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A complete 429: its headers, its error, and the name of the limit for logs and metrics."""

    headers: Headers
    error: ClientError
    limited_by: str


@dataclass(frozen=True, slots=True)
class _Reason:
    """Why one limit refuses. `wait_ms` is None when waiting does not help."""

    limited_by: str
    error: ClientError
    message: str
    wait_ms: int | None


def headers(plan: Plan, decision: Decision) -> Headers:
    """The rate-limit headers of every answer; empty when no limit has headers, or the decision has no outcomes."""
    found: Headers = []
    outcomes = decision.outcomes
    for places, limit, remaining, reset in plan.shown if outcomes else ():
        outcome = outcomes[places[0]] if len(places) == 1 else min([outcomes[i] for i in places], key=_tight)
        found.append((limit, str(outcome.charge.limit.amount)))
        found.append((remaining, str(outcome.remaining)))
        if reset:
            found.append((reset, duration(outcome.reset_after_ms)))
    return found


def refusal(plan: Plan, decision: Decision, caller: Caller) -> Refusal:
    """The 429 for a refused decision. It names the limit with the longest wait."""
    reasons = [*_window_reasons(plan, decision, caller), *_lease_reasons(plan, decision, caller)]
    worst = max(reasons, key=lambda reason: float("inf") if reason.wait_ms is None else reason.wait_ms)
    again = "" if worst.wait_ms is None else f" Please try again in {duration(worst.wait_ms)}."
    error = worst.error.with_message(worst.message + again)
    return Refusal([*headers(plan, decision), *_retry(worst), _JSON], error, worst.limited_by)


def duration(milliseconds: int) -> str:
    """Go's notation, as OpenAI sends it: `120ms`, `1.5s`, `6m0s`, `1h0m0s`."""
    seconds, rest_ms = divmod(milliseconds, 1000)
    if seconds == 0:
        return f"{rest_ms}ms" if rest_ms else "0s"
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f"{seconds}.{rest_ms:03d}".rstrip("0") if rest_ms else str(seconds)
    if hours:
        return f"{hours}h{minutes}m{fraction}s"
    return f"{minutes}m{fraction}s" if minutes else f"{fraction}s"


_JSON = ("content-type", "application/json")
_PERIOD_NAMES = {seconds: name for name, seconds in PERIODS.items()}


def _tight(outcome: Outcome) -> tuple[int, int]:
    """Sorts by what remains, the least first; of equals, the one that resets last comes first."""
    return outcome.remaining, -outcome.reset_after_ms


def _window_reasons(plan: Plan, decision: Decision, caller: Caller) -> Iterator[_Reason]:
    for rule, outcome in zip(plan.rules, decision.outcomes, strict=True):
        if outcome.allowed or rule.limit.shadow:
            continue
        error = INSUFFICIENT_QUOTA if rule.measure == "budget" else RATE_LIMITED
        words = _too_large if outcome.charge.hits > rule.limit.capacity else _spent
        yield _Reason(rule.limit.name, error, words(rule, outcome, caller), outcome.retry_after_ms)


def _spent(rule: Rule, _outcome: Outcome, caller: Caller) -> str:
    most, period = _amount(rule, rule.limit.amount), _PERIOD_NAMES[rule.limit.period_s]
    over = "Budget spent" if rule.measure == "budget" else "Rate limit exceeded"
    return f"{over}. Maximum {most} per {period} allowed for {_whose(rule, caller)}."


def _too_large(rule: Rule, outcome: Outcome, caller: Caller) -> str:
    """The message for a request larger than the whole limit."""
    asked, most = _amount(rule, outcome.charge.hits), _amount(rule, rule.limit.amount)
    asks = "may cost" if rule.measure == "budget" else "asks for"
    period, whose = _PERIOD_NAMES[rule.limit.period_s], _whose(rule, caller)
    fewer = "Lower max_tokens" if caller.asks.choices <= 1 else "Lower max_tokens, or ask for fewer choices"
    return f"This request {asks} up to {asked}; at most {most} per {period} are allowed for {whose}. {fewer}."


def _amount(rule: Rule, hits: int) -> str:
    if rule.measure == "budget":
        return f"{hits / 1_000_000:.13g} USD"
    return f"{hits} {rule.measure.replace('_', ' ')}"


def _lease_reasons(plan: Plan, decision: Decision, caller: Caller) -> Iterator[_Reason]:
    for rule, outcome in zip(plan.concurrency, decision.leases, strict=True):
        if not outcome.allowed and not rule.shadow:
            most = f"Rate limit exceeded. Maximum {rule.most} concurrent requests"
            message = f"{most} allowed for {_whose(rule, caller)}."
            yield _Reason(rule.name, RATE_LIMITED, message, CONCURRENT_RETRY_MS)


def _whose(rule: Rule | Concurrency, caller: Caller) -> str:
    holder = {
        "tier": f"tier '{caller.tier}'",
        "model": f"this model and tier '{caller.tier}'",
        "user": f"user '{caller.user}'",
        "team": f"team '{caller.team}'",
        "key": f"key '{caller.key_id}'",
    }
    return holder[rule.scope]


def _retry(reason: _Reason) -> Iterator[tuple[str, str]]:
    """A spent budget stays spent for a while: `x-should-retry: false` keeps OpenAI's clients from retrying."""
    if reason.error is INSUFFICIENT_QUOTA or reason.wait_ms is None:
        yield "x-should-retry", "false"
    if reason.wait_ms is not None:
        yield "retry-after", str(-(-reason.wait_ms // 1000))
        yield "retry-after-ms", str(reason.wait_ms)
