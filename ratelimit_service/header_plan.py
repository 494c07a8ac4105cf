"""Which of a caller's limits every answer shows, and in which headers."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ratelimit_service.rules.rule_set import Rule

_PERIODS = ((60, "minute"), (3600, "hour"))
_MEASURES = ("requests", "tokens")


class Shown(NamedTuple):
    """The headers for the tightest of the rules at `places`. An empty `reset` means no such header."""

    places: tuple[int, ...]
    limit: str
    remaining: str
    reset: str = ""


def shown(rules: Sequence[Rule]) -> tuple[Shown, ...]:
    """Requests per minute and per hour, and the tightest of all limits on requests, and on tokens. What has no rule has
    no header; shadow limits are never shown."""
    return tuple(each for each in _all(rules) if each.places)


def _all(rules: Sequence[Rule]) -> Iterator[Shown]:
    of = {measure: tuple(i for i, rule in enumerate(rules) if _is_shown(rule, measure)) for measure in _MEASURES}
    for period_s, name in _PERIODS:
        mine = tuple(i for i in of["requests"] if rules[i].limit.period_s == period_s)
        yield Shown(mine, f"x-ratelimit-limit-{name}", f"x-ratelimit-remaining-{name}")
    for measure, places in of.items():
        names = (f"x-ratelimit-{what}-{measure}" for what in ("limit", "remaining", "reset"))
        yield Shown(places, *names)


def _is_shown(rule: Rule, measure: str) -> bool:
    return rule.measure == measure and not rule.limit.shadow
