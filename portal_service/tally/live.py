"""Data for operators, from the tally: recent traffic, models, users and errors."""

import sqlite3
from dataclasses import dataclass
from typing import Any

from portal_service.tally.counting import STEP_S
from portal_service.tally.usage_db import KEPT_LIVE_S

SHOWN_S = 300
MAX_USERS = 1000
TOP_MODELS = 50
TOP_USERS = 20
SHOWN_MISTAKES = 30
LATE_S = 2
"""Requests reach the tally within this time; a younger step is incomplete."""


@dataclass(frozen=True, slots=True)
class Active:
    """A recently active user, as in the latest request."""

    user: str
    team: str
    tier: str
    key: str


def traffic(db: sqlite3.Connection, now: float) -> list[dict[str, Any]]:
    """Rates of the last five minutes, one entry a step, the newest last."""
    last = int(now - LATE_S) // STEP_S * STEP_S - STEP_S
    query = "SELECT start, sum(requests), sum(failed), sum(refused), sum(tokens) FROM steps WHERE start > ? GROUP BY 1"
    found = {start: sums for start, *sums in db.execute(query, (last - SHOWN_S,))}
    fields = ("requests", "failed", "refused", "tokens")
    return [
        {"time": start, **{f: n / STEP_S for f, n in zip(fields, found.get(start, (0, 0, 0, 0)), strict=True)}}
        for start in range(last - SHOWN_S + STEP_S, last + STEP_S, STEP_S)
    ]


def models(db: sqlite3.Connection, now: float) -> dict[str, dict[str, Any]]:
    """By model, of the last five minutes: requests, tokens a second, share of failures, mean time to first token."""
    query = """
    SELECT model, sum(requests) AS n, sum(failed), sum(tokens), sum(ttft_ms), sum(timed)
    FROM steps WHERE start > ? AND model != '' GROUP BY 1 ORDER BY n DESC LIMIT ?
    """
    return {
        model: {
            "requests": requests,
            "failed": failed,
            "tokens_per_s": tokens / SHOWN_S,
            "ttft_ms": ttft_ms / timed if timed else None,
        }
        for model, requests, failed, tokens, ttft_ms, timed in db.execute(query, (now - SHOWN_S, TOP_MODELS))
    }


def users(db: sqlite3.Connection, today: str) -> list[dict[str, Any]]:
    """The users with the most tokens today."""
    query = """
    SELECT user, max(team), sum(requests), sum(prompt_tokens + completion_tokens) AS tokens, sum(cost_nano_usd)
    FROM days WHERE day = ? GROUP BY 1 ORDER BY tokens DESC, 3 DESC LIMIT ?
    """
    return [
        {"user": user, "team": team, "requests": n, "tokens": tokens, "cost_usd": None if cost is None else cost / 1e9}
        for user, team, n, tokens, cost in db.execute(query, (today, TOP_USERS))
    ]


def teams(db: sqlite3.Connection, since: str) -> dict[str, str]:
    """The team of each user who made requests since the day `since`; the busiest of them, if they are too many."""
    query = "SELECT user, max(team) FROM days WHERE day >= ? GROUP BY 1 ORDER BY sum(requests) DESC LIMIT ?"
    return {user: team for user, team in db.execute(query, (since, MAX_USERS)) if team}


def active(db: sqlite3.Connection, today: str, now: float) -> list[Active]:
    """Users active in the last ten minutes, by requests today, most first."""
    query = """
    SELECT user, team, tier, key, max(seen) FROM days WHERE day = ? AND seen > ?
    GROUP BY user ORDER BY sum(requests) DESC LIMIT ?
    """
    return [Active(*row[:4]) for row in db.execute(query, (today, now - KEPT_LIVE_S, TOP_USERS))]


def mistakes(db: sqlite3.Connection) -> list[dict[str, Any]]:
    """Errors of the last hour, grouped, the latest first."""
    fields = ("status", "code", "model", "user", "limited_by", "first", "last", "times")
    rows = db.execute("SELECT * FROM mistakes ORDER BY last DESC LIMIT ?", (SHOWN_MISTAKES,))
    return [dict(zip(fields, row, strict=True)) for row in rows]
