"""The options of a report: dimensions, period, filters, measure. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from gatehouse.config.problem import nearest

DIMENSIONS = ("user", "team", "tier", "model", "key", "endpoint", "status", "day", "hour", "backend")
"""Dimensions by which usage can be summed. Days and hours are UTC."""

_TIMES = ("day", "hour")

MEASURES = (
    "tokens",
    "requests",
    "errors",
    "limited",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "cost_usd",
)
"""Measures by which rows can be sorted and charted. `tokens` are those of prompts and completions."""


@dataclass(frozen=True, slots=True)
class Question:
    """`since` is inclusive, `until` exclusive. `only` filters by values of dimensions: a request must have one of each.

    Raises `ValueError` for what is no dimension or no measure, with the nearest one.
    """

    by: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    only: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    measure: str = "tokens"

    def __post_init__(self) -> None:
        for name in (*self.by, *self.only):
            _known("usage is not summed by", name, DIMENSIONS)
        _known("rows are not sorted by", self.measure, MEASURES)
        if len(set(self.by)) < len(self.by):
            raise ValueError("a dimension is named twice")

    @property
    def in_order(self) -> int:
        """How many of `by` rows are sorted by before the measure, so that days and hours come in their order."""
        return max((i + 1 for i, name in enumerate(self.by) if name in _TIMES), default=0)


def dimensions(text: str) -> tuple[str, ...]:
    """`user,model` as names of dimensions."""
    return tuple(name for part in text.split(",") if (name := part.strip()))


def _known(message: str, name: str, valid: tuple[str, ...]) -> None:
    if name not in valid:
        raise ValueError(f"{message} '{name}' ({nearest(name, valid) or 'there are ' + ', '.join(valid)})")
