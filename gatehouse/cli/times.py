"""Times as people write them: `90d`, `2027-01-01`."""

import re
from datetime import UTC, datetime

from pydantic import TypeAdapter, ValidationError

from gatehouse.cli.refused import RefusedError
from gatehouse.config.model import Instant

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"(\d{1,6})([smhdw])")
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
