"""`api_user_info{user,team}`: who is in which team, for queries that sum users' metrics by team."""

import sqlite3
from datetime import date, timedelta

from prometheus_client.core import GaugeMetricFamily

from gatehouse.metrics import text
from portal_service.tally import live
from portal_service.tally.usage_db import UsageDb

TEXT = "1 for each user of the last two days who has a team."


def exposition(db: UsageDb, today: date) -> bytes:
    """Prometheus' text format; empty without users, or while the tally can't be read."""
    try:
        with db.reading() as rows:
            found = live.teams(rows, (today - timedelta(days=1)).isoformat())
    except sqlite3.Error:
        return b""
    family = GaugeMetricFamily("api_user_info", TEXT, labels=["user", "team"])
    for user, team in found.items():
        family.add_metric([user, team], 1)
    return text([family] if found else [])
