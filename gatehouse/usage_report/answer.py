"""A row of a report. Pure."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """The sums of one group of requests; `group` has its values, one a dimension, None where there is none.

    `limited` are requests that a limit refused, `errors` all others that were answered with 400 or more, or with an
    error inside a success. Percentiles, in milliseconds, are within 1 %; None when no request of the group has that
    time.
    """

    group: tuple[str | int | None, ...]
    requests: int
    errors: int
    limited: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cost_micro_usd: int
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None
    duration_p50_ms: float | None
    duration_p95_ms: float | None

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def cost_usd(self) -> float:
        return self.cost_micro_usd / 1e6


COLUMNS = (
    "requests",
    "errors",
    "limited",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "cost_usd",
    "ttft_p50_ms",
    "ttft_p95_ms",
    "duration_p50_ms",
    "duration_p95_ms",
)


def figures(row: Row) -> dict[str, Any]:
    """The figures of a row, by the names of `COLUMNS`."""
    return {name: getattr(row, name) for name in COLUMNS}


@dataclass(frozen=True, slots=True)
class Stray:
    """A file with `lines` that are not records: foreign text, or a truncated last line."""

    file: str
    lines: int
