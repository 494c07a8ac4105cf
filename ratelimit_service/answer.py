"""A decision as the client sees it: rate-limit headers on every answer, and a finished 429.

Header names and formats are OpenAI's (`x-ratelimit-*-requests`, resets as `6m0s`), with one pair a window beside them;
`Retry-After` is RFC 9110 §10.2.3 in whole seconds, rounded up so that whoever obeys it is let in, and `retry-after-ms`
is what OpenAI's clients read first.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from gatehouse.errors import RATE_LIMITED
from ratelimit_service.store import Decision, Outcome

Headers = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A finished 429: its headers, its JSON body, and the name of the limit for logs and metrics."""

    headers: Headers
    body: bytes
    limited_by: str


def headers(decision: Decision) -> Headers:
    """What every answer says of the caller's request limits; empty when there are none."""
    named = [pair for outcome in decision.outcomes for pair in _window(outcome)]
    return [*named, *_tightest(decision)]


def refusal(decision: Decision, tier: str) -> Refusal:
    """The 429 for a refused decision. The limit that keeps the caller out for longest is the one it names."""
    refusing = [o for o in decision.outcomes if not o.allowed and not o.charge.limit.shadow]
    worst = max(refusing, key=lambda outcome: outcome.retry_after_ms or 0)
    wait_ms = worst.retry_after_ms or 0
    limit = worst.charge.limit
    unit, period = _words(limit.name)
    message = (
        f"Rate limit exceeded. Maximum {limit.amount} {unit} per {period} allowed for tier '{tier}'. "
        f"Please try again in {duration(wait_ms)}."
    )
    retry = [("retry-after", str(-(-wait_ms // 1000))), ("retry-after-ms", str(wait_ms))]
    everything = [*headers(decision), *retry, ("content-type", "application/json")]
    return Refusal(everything, RATE_LIMITED.with_message(message).json(), limit.name)


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


def _words(name: str) -> tuple[str, str]:
    """`requests_per_minute` -> `requests`, `minute`."""
    unit, _, period = name.rpartition("_per_")
    return unit.replace("_", " "), period


def _window(outcome: Outcome) -> Iterator[tuple[str, str]]:
    period = _words(outcome.charge.limit.name)[1]
    yield f"x-ratelimit-limit-{period}", str(outcome.charge.limit.amount)
    yield f"x-ratelimit-remaining-{period}", str(outcome.remaining)


def _tightest(decision: Decision) -> Iterator[tuple[str, str]]:
    """The window with the least left; of equals, the one that stays so for longest."""
    if decision.outcomes:
        outcome = min(decision.outcomes, key=lambda o: (o.remaining, -o.reset_after_ms))
        yield "x-ratelimit-limit-requests", str(outcome.charge.limit.amount)
        yield "x-ratelimit-remaining-requests", str(outcome.remaining)
        yield "x-ratelimit-reset-requests", duration(outcome.reset_after_ms)
