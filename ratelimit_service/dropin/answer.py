"""Response headers and dynamic metadata for a verdict. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ratelimit_service.dropin.decide import Code, Status, Verdict
from ratelimit_service.dropin.match import Descriptor, Override


@dataclass(frozen=True, slots=True)
class HeaderNames:
    limit: str = "RateLimit-Limit"
    remaining: str = "RateLimit-Remaining"
    reset: str = "RateLimit-Reset"


def headers(verdict: Verdict, names: HeaderNames) -> list[tuple[str, str]]:
    """Limit, remaining hits and seconds until reset of the limit that refused, else of the one nearest to it."""
    limited = [status for status in verdict.statuses if _amount(status) is not None]
    if not limited:
        return []
    told = verdict.refusing or min(limited, key=_left)
    return [
        (names.limit, str(_amount(told))),
        (names.remaining, str(told.remaining)),
        (names.reset, str(told.reset_s)),
    ]


def metadata(domain: str, descriptors: Sequence[Descriptor], hits: int, statuses: Sequence[Status]) -> dict[str, Any]:
    """The request as it came, and the merged `metadata` of the limits that passed."""
    said: dict[str, Any] = {"domain": domain, "descriptors": [_said(descriptor) for descriptor in descriptors]}
    if hits:
        said["hitsAddend"] = hits
    passed = [s.match.rate_limit.metadata for s in statuses if s.match is not None and s.code is Code.OK]
    merged: dict[str, Any] = {}
    for one in passed:
        merged = merge(merged, one)
    return said | ({"metadata": merged} if merged else {})


def merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Both, with maps merged inside too; where they differ the first wins."""
    merged = dict(first)
    for key, value in second.items():
        if key not in merged:
            merged[key] = value
        elif isinstance(merged[key], dict) and isinstance(value, dict):
            merged[key] = merge(merged[key], value)
    return merged


def _left(status: Status) -> int:
    return 0 if status.over else status.remaining


def _amount(status: Status) -> int | None:
    limit = None if status.match is None else status.match.rate_limit.limit
    return None if limit is None else limit.amount


def _said(descriptor: Descriptor) -> dict[str, Any]:
    said: dict[str, Any] = {"entries": [f"{key}={value}" for key, value in descriptor.entries]}
    if descriptor.override is not None:
        said["limit"] = _written(descriptor.override)
    if descriptor.hits is not None:
        said["hitsAddend"] = descriptor.hits
    return said


def _written(override: Override) -> str:
    return f"requests_per_unit:{override.amount} unit:{override.unit}"
