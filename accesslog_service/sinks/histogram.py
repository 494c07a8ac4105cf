"""Histograms with explicit bounds, counted in place: a measurement costs a look-up and a bisection."""

from bisect import bisect_left
from collections.abc import Hashable
from typing import Generic, TypeVar

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
    """The series of one metric, by their key."""

    def __init__(self, name: str, unit: str, description: str, bounds: tuple[float, ...]) -> None:
        self.name = name
        self.unit = unit
        self.description = description
        self.bounds = bounds
        self.series: dict[Key, Series] = {}

    def observe(self, key: Key, value: float) -> None:
        series = self.series.get(key)
        if series is None:
            series = self.series[key] = Series(len(self.bounds))
        series.buckets[bisect_left(self.bounds, value)] += 1
        series.total += value
        series.lowest = min(series.lowest, value)
        series.highest = max(series.highest, value)
