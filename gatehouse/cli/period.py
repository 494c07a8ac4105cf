"""Periods of time as people write them: `2026-11-01`, `2026-11-01T08:00`, `7d`."""

from datetime import UTC, date, datetime, timedelta

from gatehouse.cli.refused import RefusedError
from gatehouse.cli.times import seconds

_DAY = "2026-11-01"


def begin(text: str, now: datetime) -> datetime:
    """When a period begins: with a day (UTC), at a time, or so long ago. Raises `RefusedError`."""
    return _instant(text, now)[0]


def end(text: str, now: datetime) -> datetime:
    """When a period is over: after a day, at a time, or so long ago. Raises `RefusedError`."""
    return _instant(text, now)[1]


def _instant(text: str, now: datetime) -> tuple[datetime, datetime]:
    """The first moment that is meant, and the first that is not meant any more."""
    text = text.strip()
    try:
        if len(text) == len(_DAY):
            day = datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
            return day, day + timedelta(days=1)
        at = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        at = _ago(text, now)
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return at, at


def _ago(text: str, now: datetime) -> datetime:
    try:
        return now - timedelta(seconds=seconds(text))
    except (RefusedError, OverflowError):
        message = f"'{text}' is neither a day such as {_DAY}, a time such as {_DAY}T08:00, nor a duration such as 7d"
        raise RefusedError(message) from None
