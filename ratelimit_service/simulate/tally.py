"""Sums up a replay: in all, by limit, by user."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ratelimit_service.simulate.replay import Verdict


@dataclass(slots=True)
class Refusals:
    """Their number, and the times of the first and the last, in milliseconds since the epoch."""

    count: int = 0
    first_ms: int = 0
    last_ms: int = 0

    def add(self, at_ms: int) -> None:
        self.first_ms = min(self.first_ms, at_ms) if self.count else at_ms
        self.last_ms = max(self.last_ms, at_ms)
        self.count += 1

    def fields(self) -> dict[str, Any]:
        spread = {"first": instant(self.first_ms), "last": instant(self.last_ms)} if self.count else {}
        return {"refused": self.count, "first": None, "last": None, **spread}


@dataclass(slots=True)
class _OfUser:
    requests: int = 0
    refusals: Refusals = field(default_factory=Refusals)
    limits: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Tally:
    """`were_refused`: in reality. `no_more`: of those, admitted in the replay; `newly`: refused in the replay only."""

    requests: int = 0
    were_refused: int = 0
    newly: int = 0
    no_more: int = 0
    refusals: Refusals = field(default_factory=Refusals)
    limits: dict[str, Refusals] = field(default_factory=dict)
    shadows: dict[str, Refusals] = field(default_factory=dict)
    users: dict[str, _OfUser] = field(default_factory=dict)

    def add(self, verdict: Verdict) -> None:
        record, limit = verdict.record, verdict.limit
        user = self.users.setdefault(record.user_id or "", _OfUser())
        self.requests += 1
        user.requests += 1
        self.were_refused += record.limited_by is not None
        self.newly += limit is not None and record.limited_by is None
        self.no_more += limit is None and record.limited_by is not None
        for name in verdict.shadows:
            self.shadows.setdefault(name, Refusals()).add(record.start_ms)
        if limit is not None:
            user.limits[limit] = user.limits.get(limit, 0) + 1
            for refusals in (self.refusals, user.refusals, self.limits.setdefault(limit, Refusals())):
                refusals.add(record.start_ms)

    def fields(self) -> dict[str, Any]:
        """Users and limits with the most refusals come first; users without any are left out."""
        users = [(name, user) for name, user in self.users.items() if user.refusals.count]
        users.sort(key=lambda entry: (-entry[1].refusals.count, entry[0]))
        return {
            "requests": self.requests,
            **self.refusals.fields(),
            "share": _share(self.refusals.count, self.requests),
            "were_refused": self.were_refused,
            "newly_refused": self.newly,
            "no_more_refused": self.no_more,
            "limits": self._by_limit(self.limits),
            "shadow_limits": self._by_limit(self.shadows),
            "users": [
                {
                    "user": name,
                    "requests": user.requests,
                    **user.refusals.fields(),
                    "share": _share(user.refusals.count, user.requests),
                    "limits": user.limits,
                }
                for name, user in users
            ],
        }

    def _by_limit(self, limits: dict[str, Refusals]) -> list[dict[str, Any]]:
        ordered = sorted(limits.items(), key=lambda entry: (-entry[1].count, entry[0]))
        return [{"limit": n, **r.fields(), "share": _share(r.count, self.requests)} for n, r in ordered]


def instant(milliseconds: int) -> str:
    """A time as in records: ISO 8601, UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")


def _share(part: int, of: int) -> float:
    return round(part / of, 6) if of else 0.0
