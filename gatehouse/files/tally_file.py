"""Reads the tally of the request log, which `portal_service.tally` writes: usage by key and day, for other services."""

import sqlite3
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import NamedTuple

NAME = "tally.sqlite"
"""In `logging.dir`."""


class Used(NamedTuple):
    """The usage of one key of a user on one day (UTC), under the team and tier that it had last. The cost is in
    billionths of a US dollar, None if no price is known. `admitted`: requests that the limits let through; also 0 if an
    older version, which did not count them, wrote the tally."""

    day: date
    user: str
    team: str
    tier: str
    key: str
    input_tokens: int
    output_tokens: int
    cost_nano_usd: int | None
    admitted: int = 0


_QUERY = """
SELECT day, user, team, tier, key, sum(prompt_tokens), sum(completion_tokens), sum(cost_nano_usd), {admitted}
FROM days WHERE day >= ? GROUP BY day, user, key
"""


def used_since(path: Path, day: date) -> list[Used]:
    """All usage since the beginning of `day`. Blocks; raises `sqlite3.Error` if there is no tally."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)) as book:
        columns = {column[1] for column in book.execute("PRAGMA table_info(days)")}
        query = _QUERY.format(admitted="coalesce(sum(admitted), 0)" if "admitted" in columns else "0")
        return [Used(date.fromisoformat(row[0]), *row[1:]) for row in book.execute(query, (day.isoformat(),))]
