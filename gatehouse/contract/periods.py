"""The lengths of the periods of limits."""

from collections.abc import Mapping
from types import MappingProxyType

PERIODS: Mapping[str, int] = MappingProxyType(
    {
        "second": 1,
        "minute": 60,
        "hour": 3_600,
        "day": 86_400,
        "week": 7 * 86_400,
        "month": 30 * 86_400,
        "year": 365 * 86_400,
    }
)
"""Name -> seconds, as envoyproxy/ratelimit counts them: a month is 30 days, a year 365."""
