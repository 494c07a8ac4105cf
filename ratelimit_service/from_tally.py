"""Usage of limits of a day and more, from the tally of the request log, to restore it to an empty store."""

import asyncio
import logging
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from gatehouse.contract.periods import PERIODS
from gatehouse.files import tally_file
from gatehouse.files.tally_file import Used
from ratelimit_service.caller import Caller
from ratelimit_service.plan import Plans
from ratelimit_service.rules.rule_set import Rule
from ratelimit_service.store.limits import MAX_AMOUNT, Algorithm, Limit
from ratelimit_service.store.memory import epoch_ms
from ratelimit_service.store.port import Charge

log = logging.getLogger(__name__)

_LONGEST = timedelta(seconds=PERIODS["month"])
_MEASURED: Mapping[str, Callable[[Used], int]] = {
    "tokens": lambda used: used.input_tokens + used.output_tokens,
    "input_tokens": lambda used: used.input_tokens,
    "output_tokens": lambda used: used.output_tokens,
    "budget": lambda used: -(-(used.cost_nano_usd or 0) // 1000),
    "requests": lambda used: used.admitted,
}

Unrestored = Callable[[], None]
"""Called when limits start at zero although some of them may have been used."""


async def restored(
    plans: Plans, logs: Path, unrestored: Unrestored, now_ms: Callable[[], int] = epoch_ms
) -> list[Charge]:
    """One charge for each bucket with usage, of users, teams and tiers; empty if there is no tally yet, or if it can't
    be read, which is logged and reported.

    A day counts in full if any of it falls into a window. The tally has no usage per model or per key; limits of models
    that therefore start at zero are logged and reported.
    """
    path, now = logs / tally_file.NAME, datetime.fromtimestamp(now_ms() / 1000, UTC)
    long = [rule for rule in plans.rules() if rule.limit.period_s >= PERIODS["day"]]
    if not long or not path.exists():
        return []
    try:
        rows = await asyncio.to_thread(tally_file.used_since, path, (now - _LONGEST).date())
    except sqlite3.Error as error:
        log.error("usage of limits of a day and more can't be restored from %s: %s", path, error)
        unrestored()
        return []
    if rows and (unknown := {rule.limit.name for rule in long if not _is_restored(rule)}):
        log.warning("limits whose usage is not in the tally start at zero: %s", ", ".join(sorted(unknown)))
        unrestored()
    return list(charges(plans, rows, now))


def charges(plans: Plans, rows: Iterable[Used], now: datetime) -> Iterator[Charge]:
    """Pure. Rows of one holder are added up."""
    hits: dict[tuple[str, Limit], int] = defaultdict(int)
    for used in rows:
        who = Caller(used.user, used.team, used.tier, used.key)
        for rule, key in plans.counters(who):
            if _is_restored(rule) and used.day >= _began(rule.limit, now):
                hits[key, rule.limit] += _MEASURED[rule.measure](used)
    for (key, limit), amount in hits.items():
        if amount:
            yield Charge(key, limit, min(amount, MAX_AMOUNT))


def _is_restored(rule: Rule) -> bool:
    long = rule.limit.period_s >= PERIODS["day"]
    return long and rule.measure in _MEASURED and rule.scope in ("tier", "user", "team")


def _began(limit: Limit, now: datetime) -> date:
    """The day on which the current window began; for a sliding window, the day one period ago."""
    at = int(now.timestamp())
    since = at - at % limit.period_s if limit.algorithm is Algorithm.FIXED_WINDOW else at - limit.period_s
    return datetime.fromtimestamp(since, UTC).date()
