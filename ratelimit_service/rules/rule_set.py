"""Builds rules from a set of limits in `gatehouse.yaml`."""

from collections.abc import Iterator
from dataclasses import dataclass

from gatehouse.config.model import MEASURES, PERIODS
from gatehouse.config.model import Limits as Settings
from ratelimit_service.store.limits import Algorithm, Limit


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit of one kind of holder. `measure` is what it counts: requests, tokens, …, `budget` in millionths of a
    dollar. `counter` distinguishes counters of one holder."""

    limit: Limit
    measure: str
    scope: str
    counter: str


@dataclass(frozen=True, slots=True)
class Concurrency:
    """At most `most` requests of a holder at a time."""

    most: int
    name: str
    scope: str
    counter: str
    shadow: bool


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules of one scope."""

    rules: tuple[Rule, ...] = ()
    concurrency: tuple[Concurrency, ...] = ()


NOTHING = RuleSet()
"""No rules."""


def rule_set(settings: Settings, scope: str, counter: str = "") -> RuleSet:
    concurrent = settings.concurrent_requests
    name = _named(scope, "concurrent_requests")
    lease = () if concurrent is None else (Concurrency(concurrent, name, scope, f"{counter}c", settings.shadow),)
    return RuleSet(tuple(_rules(settings, scope, counter)), lease)


def _rules(settings: Settings, scope: str, counter: str) -> Iterator[Rule]:
    algorithm = Algorithm(settings.algorithm)
    for measure in MEASURES:
        for period, amount in settings.windows(measure):
            name = _named(scope, f"{measure}_per_{period}")
            limit = Limit(name, amount, PERIODS[period], algorithm, shadow=settings.shadow)
            yield Rule(limit, measure, scope, f"{counter}{_LETTER[measure]}")
    if settings.budget_usd_per_month is not None:
        micro_usd = round(settings.budget_usd_per_month * 1_000_000)
        name = _named(scope, "budget_usd_per_month")
        # A budget is renewed all at once: a month's money does not trickle back.
        limit = Limit(name, micro_usd, PERIODS["month"], Algorithm.FIXED_WINDOW, shadow=settings.shadow)
        yield Rule(limit, "budget", scope, f"{counter}{_LETTER['budget']}")


_LETTER = {"requests": "r", "tokens": "t", "input_tokens": "i", "output_tokens": "o", "budget": "b"}


def _named(scope: str, name: str) -> str:
    """The limit's name in logs and metrics: `requests_per_minute` of the tier, `team_tokens_per_day`."""
    return name if scope == "tier" else f"{scope}_{name}"
