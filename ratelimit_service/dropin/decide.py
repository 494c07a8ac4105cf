"""Matched limits -> one ask of the store, and its decision -> a verdict on each descriptor. Pure.

What differs from envoyproxy/ratelimit, where every request is counted: a refused request consumes nothing. Three kinds
of limits are counted all the same, and `shadow` to the store: those in shadow mode; several in quota mode, as it takes
all of them to refuse; and those whose descriptor brings hits of its own, as these report a use that has happened (the
tokens of a response, say), which no limit undoes. `Modes.count_refused` counts everything, as there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from ratelimit_service.dropin.match import Descriptor, Match
from ratelimit_service.dropin.rules import RateLimit
from ratelimit_service.limits import MAX_AMOUNT, Algorithm, Limit
from ratelimit_service.store import Ask, Charge, Decision, Outcome


class Code(Enum):
    OK = 1
    OVER_LIMIT = 2


@dataclass(frozen=True, slots=True)
class Modes:
    """What the whole service does: `shadow` refuses nothing, `quota` puts every limit in quota mode."""

    shadow: bool = False
    quota: bool = False
    count_refused: bool = False


@dataclass(frozen=True, slots=True)
class Status:
    """The verdict on one descriptor. `match` is None where no limit applies. `over` holds in shadow mode too."""

    match: Match | None
    hits: int = 0
    over: bool = False
    remaining: int = 0
    reset_s: int = 0

    @property
    def code(self) -> Code:
        shadow = self.match is not None and self.match.rate_limit.shadow
        return Code.OVER_LIMIT if self.over and not shadow else Code.OK


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to a request; `shadowed` if it is OK only because the service refuses nothing."""

    code: Code
    statuses: tuple[Status, ...]
    shadowed: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """A request with its limits, descriptor by descriptor. `hits` is what the request says; 0 means 1."""

    descriptors: Sequence[Descriptor]
    matches: Sequence[Match | None]
    hits: int
    modes: Modes

    def ask(self) -> Ask:
        """What the store is to decide, in one atomic step; without charges there is nothing to ask."""
        return Ask("", tuple(self._charge(*limited) for limited in self._limited()))

    def refunds(self) -> tuple[Charge, ...]:
        """What descriptors with negative hits give back."""
        return tuple(
            Charge(match.key, limit, min(self.descriptors[i].hits or 0, MAX_AMOUNT))
            for i, match, limit in self._limited()
            if self.descriptors[i].negative
        )

    def verdict(self, decision: Decision) -> Verdict:
        """What `decision` on `ask()` means."""
        outcomes = {i: outcome for (i, _, _), outcome in zip(self._limited(), decision.outcomes, strict=True)}
        statuses = tuple(
            self._status(i, match, outcomes[i]) if i in outcomes else Status(match)
            for i, match in enumerate(self.matches)
        )
        over = self._over(statuses)
        if over and self.modes.shadow:
            return Verdict(Code.OK, statuses, shadowed=True)
        return Verdict(Code.OVER_LIMIT if over else Code.OK, statuses)

    def _limited(self) -> Iterator[tuple[int, Match, Limit]]:
        """The descriptors that the store is asked about."""
        for i, match in enumerate(self.matches):
            if match is not None and match.rate_limit.limit is not None:
                yield i, match, match.rate_limit.limit

    def _charge(self, i: int, match: Match, limit: Limit) -> Charge:
        hits = self._hits(i)
        limit = limit if hits else _one_more(limit)
        if self._counts_anyway(i, match.rate_limit):
            limit = replace(limit, shadow=True)
        return Charge(match.key, limit, hits)

    def _hits(self, i: int) -> int:
        descriptor = self.descriptors[i]
        if descriptor.negative:
            return 0
        return min(max(1, self.hits) if descriptor.hits is None else descriptor.hits, MAX_AMOUNT)

    def _counts_anyway(self, i: int, rate_limit: RateLimit) -> bool:
        reported = bool(self.descriptors[i].hits)
        several = self._is_quota(rate_limit) and self._quotas() > 1
        return rate_limit.shadow or reported or several or self.modes.shadow or self.modes.count_refused

    def _status(self, i: int, match: Match | None, outcome: Outcome) -> Status:
        hits = self._hits(i)
        remaining = outcome.remaining if hits else max(0, outcome.remaining - 1)
        return Status(match, hits, not outcome.allowed, remaining, -(-outcome.reset_after_ms // 1000))

    def _over(self, statuses: Sequence[Status]) -> bool:
        """Some limit is over that is not a quota, or every quota is."""
        limited = [(status, status.match.rate_limit) for status in statuses if status.match is not None]
        quotas = [status.code for status, rate_limit in limited if self._is_quota(rate_limit)]
        others = [status.code for status, rate_limit in limited if not self._is_quota(rate_limit)]
        return Code.OVER_LIMIT in others or (bool(quotas) and Code.OK not in quotas)

    def _quotas(self) -> int:
        return sum(match is not None and self._is_quota(match.rate_limit) for match in self.matches)

    def _is_quota(self, rate_limit: RateLimit) -> bool:
        return rate_limit.limit is not None and (rate_limit.quota or self.modes.quota)


def _one_more(limit: Limit) -> Limit:
    """The limit under which a check of 0 hits passes up to and with a full count, as envoyproxy/ratelimit has it.

    Our stores ask of 0 hits that one more would pass. A bucket's name has no amount, so the count is the same.
    """
    if limit.algorithm is Algorithm.TOKEN_BUCKET:
        return replace(limit, burst=limit.capacity + 1)
    return replace(limit, amount=limit.amount + 1)
