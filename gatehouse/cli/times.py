"""Times and periods as people write them: `90d`, `2027-01-01`, `2026-11-01T08:00`."""

import re
from datetime import UTC, date, datetime, timedelta

from pydantic import TypeAdapter, ValidationError

from gatehouse.cli.refused import RefusedError
from gatehouse.config.model import Instant

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"(\d{1,6})([smhdw])")
_EXAMPLE = "2026-11-01"
_INSTANT: TypeAdapter[datetime] = TypeAdapter(Instant)


def seconds(text: str) -> float:
    """`24h` in seconds. Raises `RefusedError`."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise RefusedError(f"'{text}' is no duration such as 90d, 24h or 30m (s, m, h, d, w)")
    return float(match[1]) * _SECONDS[match[2]]


def instant(text: str, now: float) -> float:
    """`90d` from now, or the end of the day `2027-01-01` (UTC), in Unix seconds. Raises `RefusedError`."""
    if _DURATION.fullmatch(text.strip()):
        at = now + seconds(text)
    else:
        try:
            at = _INSTANT.validate_python(text.strip()).timestamp()
        except (ValidationError, OverflowError):
            raise RefusedError(f"'{text}' is neither a duration such as 90d nor a day such as 2027-01-01") from None
    if at <= now:
        raise RefusedError(f"'{text}' is in the past")
    return at


def shown(at: float) -> str:
    """A Unix time as ISO 8601, UTC, to the second."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def begin(text: str, now: datetime) -> datetime:
    """When a period begins: with a day (UTC), at a time, or so long ago. Raises `RefusedError`."""
    return _moments(text, now)[0]


def end(text: str, now: datetime) -> datetime:
    """When a period is over: after a day, at a time, or so long ago. Raises `RefusedError`."""
    return _moments(text, now)[1]


def _moments(text: str, now: datetime) -> tuple[datetime, datetime]:
    """The first moment that is meant, and the first that is not meant any more."""
    text = text.strip()
    try:
        if len(text) == len(_EXAMPLE):
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
        forms = f"a day such as {_EXAMPLE}, a time such as {_EXAMPLE}T08:00, nor a duration such as 7d"
        raise RefusedError(f"'{text}' is neither {forms}") from None
