"""`api_user_info{user,team}`: who is in which team, for queries that add up what users did by team."""

import sqlite3
from datetime import date, timedelta

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from accesslog_service.tally import live
from accesslog_service.tally.book import Book

TEXT = "1 for each user of the last two days who has a team."


def exposition(book: Book, today: date) -> bytes:
    """In Prometheus' text format; nothing for nobody, or while the tally can't be read."""
    try:
        with book.reading() as rows:
            found = live.teams(rows, (today - timedelta(days=1)).isoformat())
    except sqlite3.Error:
        return b""
    registry = CollectorRegistry()
    gauge = Gauge("api_user_info", TEXT, ["user", "team"], registry=registry)
    for user, team in found.items():
        gauge.labels(user, team).set(1)
    return generate_latest(registry) if found else b""
