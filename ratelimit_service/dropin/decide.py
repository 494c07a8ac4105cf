"""Matched limits -> one request to the store, and its decision -> a verdict on each descriptor. Pure.

What differs from envoyproxy/ratelimit, where every request is counted: a refused request consumes nothing. Three kinds
of limits are counted all the same, and `shadow` to the store: those in shadow mode; several in quota mode, as it takes
all of them to refuse; and those whose descriptor brings hits of its own, as these report a use that has happened (the
tokens of a response, say), which no limit undoes. `Modes.count_refused` counts everything, as there.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from ratelimit_service.dropin.config.rules import RateLimit
from ratelimit_service.dropin.match import Descriptor, Match
from ratelimit_service.store.limits import MAX_AMOUNT, Algorithm, Limit
from ratelimit_service.store.port import Ask, Charge, Decision, Outcome


class Code(Enum):
    OK = 1
    OVER_LIMIT = 2


@dataclass(frozen=True, slots=True)
class Modes:
    """Modes of the whole service: `shadow` refuses nothing, `quota` puts every limit in quota mode."""

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
    quota: bool = False

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

    @property
    def refusing(self) -> Status | None:
        """The limit that is why the answer is no, or would be without the service's shadow mode: the last one that is
        over and no quota, else the first of the quotas, which refuse together."""
        if self.code is Code.OK and not self.shadowed:
            return None
        over = [status for status in self.statuses if status.code is Code.OVER_LIMIT]
        return next((status for status in reversed(over) if not status.quota), over[0])


@dataclass(frozen=True, slots=True)
class Question:
    """A request with its limits, descriptor by descriptor. `hits` is what the request says; 0 means 1."""

    descriptors: Sequence[Descriptor]
    matches: Sequence[Match | None]
    hits: int
    modes: Modes

    def ask(self) -> Ask:
        """What the store is to decide, in one atomic step; without charges there is nothing to ask."""
        charges = tuple(self._charge(*limited) for limited in self._limited())
        return Ask("", charges if _differ(charges) else (*charges, *_counters(charges)))

    def refunds(self) -> tuple[Charge, ...]:
        """What descriptors with negative hits give back."""
        return tuple(
            Charge(match.key, limit, min(self.descriptors[i].hits or 0, MAX_AMOUNT))
            for i, match, limit in self._limited()
            if self.descriptors[i].negative
        )

    def verdict(self, decision: Decision) -> Verdict:
        """What `decision` on `ask()` means."""
        limited = [i for i, _, _ in self._limited()]
        charged = decision.outcomes[: len(limited)]
        if decision.allowed and len(charged) < len(decision.outcomes):
            charged = _in_turn(charged, decision.outcomes[len(limited) :])
        outcomes = dict(zip(limited, charged, strict=True))
        statuses = tuple(
            self._status(i, match, outcomes[i]) if i in outcomes else Status(match, quota=self._is_quota(match))
            for i, match in enumerate(self.matches)
        )
        over = _over(statuses)
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
        several = _is_quota(rate_limit, self.modes) and self._quotas() > 1
        return rate_limit.shadow or reported or several or self.modes.shadow or self.modes.count_refused

    def _status(self, i: int, match: Match | None, outcome: Outcome) -> Status:
        hits = self._hits(i)
        remaining = outcome.remaining if hits else max(0, outcome.remaining - 1)
        reset_s = -(-outcome.reset_after_ms // 1000)
        return Status(match, hits, not outcome.allowed, remaining, reset_s, self._is_quota(match))

    def _quotas(self) -> int:
        return sum(map(self._is_quota, self.matches))

    def _is_quota(self, match: Match | None) -> bool:
        """In the service's own quota mode a descriptor without a limit is a quota that is never over."""
        return self.modes.quota if match is None else _is_quota(match.rate_limit, self.modes)


def _over(statuses: Sequence[Status]) -> bool:
    """Some limit is over that is not a quota, or every quota is."""
    quotas = [status.code for status in statuses if status.quota]
    others = [status.code for status in statuses if not status.quota]
    return Code.OVER_LIMIT in others or (bool(quotas) and Code.OK not in quotas)


def _is_quota(rate_limit: RateLimit, modes: Modes) -> bool:
    return rate_limit.limit is not None and (rate_limit.quota or modes.quota)


def _differ(charges: Sequence[Charge]) -> bool:
    """Whether each has a counter of its own, as nearly always."""
    return len(charges) < 2 or len({charge.bucket for charge in charges}) == len(charges)


def _counters(charges: Sequence[Charge]) -> Iterator[Charge]:
    """For each fixed window that several charges share, one more of 0 hits: under the largest limit of all, what
    remains tells what has been counted."""
    times = Counter(charge.bucket for charge in charges)
    for bucket, number in times.items():
        key, algorithm, period_s = bucket
        if number > 1 and algorithm is Algorithm.FIXED_WINDOW:
            yield Charge(key, Limit(key, MAX_AMOUNT, period_s, algorithm, shadow=True), 0)


def _in_turn(charged: Sequence[Outcome], counters: Sequence[Outcome]) -> tuple[Outcome, ...]:
    """Outcomes as if each descriptor had been counted after the one before it: the store tells of the end of all."""
    counts = {counter.charge.bucket: MAX_AMOUNT - counter.remaining for counter in counters}
    told = list(charged)
    for i in reversed(range(len(told))):
        charge = told[i].charge
        if charge.bucket in counts:
            told[i] = told[i]._replace(remaining=max(0, charge.limit.amount - counts[charge.bucket]))
            counts[charge.bucket] -= charge.hits
    return tuple(told)


def _one_more(limit: Limit) -> Limit:
    """The limit under which a check of 0 hits passes up to and with a full count, as envoyproxy/ratelimit has it.

    Our stores ask of 0 hits that one more would pass. A bucket's name has no amount, so the count is the same.
    """
    if limit.algorithm is Algorithm.TOKEN_BUCKET:
        return replace(limit, burst=limit.capacity + 1)
    return replace(limit, amount=limit.amount + 1)
