"""Limits of recently active users that are nearly used up."""

import asyncio
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from prometheus_client.core import GaugeMetricFamily

from gatehouse.metrics import text
from portal_service.cached import Cached
from portal_service.limits_left import LimiterUnavailableError, LimitsLeft
from portal_service.tally import live
from portal_service.tally.live import Active
from portal_service.tally.usage_db import UsageDb

KEPT_S = 5.0
NEAR = 0.5
MOST = 60
AT_ONCE = 4
LONGEST_S = 1.0
"""A limiter that hangs must not hold up /metrics."""


@dataclass(frozen=True, slots=True)
class Near:
    """A limit with `used` of `limit` consumed. `holder` is the user, team or key that it belongs to."""

    holder: str
    scope: str
    name: str
    used: float
    limit: float
    reset_s: float | None
    shadow: bool

    @property
    def share(self) -> float:
        return self.used / self.limit if self.limit else 1.0

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "share": round(self.share, 4)}


class NearLimits:
    """Asks the limiter about the 20 most active users of the last ten minutes, at most every five seconds."""

    def __init__(self, db: UsageDb, allowance: LimitsLeft) -> None:
        self._db = db
        self._allowance = allowance
        self._kept = Cached(self._ask, KEPT_S)
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def now(self) -> list[Near]:
        """Limits that are at least half used, the fullest first. Empty while tally or limiter is unavailable."""
        return await self._kept.get()

    async def _ask(self) -> list[Near]:
        try:
            active = await asyncio.to_thread(self._active)
        except sqlite3.Error:
            return []
        try:
            async with asyncio.timeout(LONGEST_S):
                told = await asyncio.gather(*(self._of(who) for who in active))
        except TimeoutError:
            return []
        found = {(near.holder, near.scope, near.name): near for each in told for near in each if near.share >= NEAR}
        return sorted(found.values(), key=lambda near: near.share, reverse=True)[:MOST]

    def _active(self) -> list[Active]:
        now = time.time()
        with self._db.reading() as db:
            return live.active(db, datetime.fromtimestamp(now, UTC).date().isoformat(), now)

    async def _of(self, who: Active) -> list[Near]:
        async with self._gate:
            try:
                left = await self._allowance.of(who.user, who.team, who.tier, who.key, "")
            except LimiterUnavailableError:
                return []
        holders = {"team": who.team, "key": who.key}
        return [
            Near(
                holders.get(limit["scope"], who.user),
                limit["scope"],
                limit["name"],
                limit["used"],
                limit["limit"],
                limit.get("reset_s"),
                limit.get("shadow", False),
            )
            for limit in left["limits"]
        ]


def exposition(near: Iterable[Near]) -> bytes:
    """`api_limit_used_ratio{limit,scope,holder}` in Prometheus' text format; empty without limits."""
    told = "Share of a limit that is used, where it is at least half, of the most active users."
    family = GaugeMetricFamily("api_limit_used_ratio", told, labels=["limit", "scope", "holder"])
    for each in near:
        family.add_metric([each.name, each.scope, each.holder], each.share)
    return text([family] if family.samples else [])
