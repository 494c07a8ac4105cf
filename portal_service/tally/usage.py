"""A caller's usage: today, this calendar month (UTC), and by day."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from portal_service.tally.usage_db import UsageDb

DAYS = 30
_QUERY = """
SELECT day, key = ?, sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cost_nano_usd)
FROM days WHERE user = ? AND day >= ? GROUP BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class Used:
    """`cost_nano_usd` is None where no price is known."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_nano_usd: int | None = None

    def __add__(self, other: "Used") -> "Used":
        costs = [cost for cost in (self.cost_nano_usd, other.cost_nano_usd) if cost is not None]
        return Used(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            sum(costs) if costs else None,
        )

    def plain(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cost_usd": None if self.cost_nano_usd is None else self.cost_nano_usd / 1e9,
        }


def usage(db: UsageDb, user: str, key: str, today: date) -> dict[str, Any]:
    """`today`, `month` and `days` of `user`, and the part that `key` used. Raises `sqlite3.Error`."""
    first = min(today.replace(day=1), today - timedelta(days=DAYS - 1))
    of_key: dict[str, Used] = {}
    of_user: dict[str, Used] = {}
    with db.reading() as rows:
        for day, is_key, *sums in rows.execute(_QUERY, (key, user, first.isoformat())):
            of_user[day] = of_user.get(day, Used()) + Used(*sums)
            if is_key:
                of_key[day] = Used(*sums)
    shown = [(today - timedelta(days=back)).isoformat() for back in reversed(range(DAYS))]
    return {
        **_recent(of_user, today),
        "days": [{"date": day, **of_user.get(day, Used()).plain()} for day in shown],
        "key": _recent(of_key, today),
    }


def _recent(by_day: dict[str, Used], today: date) -> dict[str, Any]:
    month = [used for day, used in by_day.items() if day >= today.replace(day=1).isoformat()]
    return {
        "today": by_day.get(today.isoformat(), Used()).plain(),
        "month": sum(month, Used()).plain(),
    }
