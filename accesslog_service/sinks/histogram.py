"""Histograms with explicit bounds, counted in place: a measurement costs a look-up and a bisection."""

from bisect import bisect_left
from collections.abc import Hashable
from typing import Generic, TypeVar

MAX_SERIES = 2000
"""Of one metric, as the OpenTelemetry SDK specification proposes ("Cardinality limits")."""

Key = TypeVar("Key", bound=Hashable)


class Series:
    """What was measured under one key. `buckets[i]` counts values up to `bounds[i]`, the last one those beyond."""

    __slots__ = ("buckets", "highest", "lowest", "total")

    def __init__(self, bounds: int) -> None:
        self.buckets = [0] * (bounds + 1)
        self.total = 0.0
        self.lowest = float("inf")
        self.highest = float("-inf")


class Histogram(Generic[Key]):
    """The series of one metric, by their key. What would make more than `MAX_SERIES` is counted under `overflow`."""

    def __init__(self, name: str, unit: str, description: str, bounds: tuple[float, ...], overflow: Key) -> None:
        self.name = name
        self.unit = unit
        self.description = description
        self.bounds = bounds
        self._overflow = overflow
        self.series: dict[Key, Series] = {}

    def observe(self, key: Key, value: float) -> None:
        series = self.series.get(key)
        if series is None:
            series = self._new(key)
        series.buckets[bisect_left(self.bounds, value)] += 1
        series.total += value
        series.lowest = min(series.lowest, value)
        series.highest = max(series.highest, value)

    def _new(self, key: Key) -> Series:
        if len(self.series) >= MAX_SERIES - 1:
            key = self._overflow
        return self.series.setdefault(key, Series(len(self.bounds)))
