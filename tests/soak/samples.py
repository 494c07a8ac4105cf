"""What every process holds, by the clock, and how that grows: slopes within the lives of processes."""

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

YOUNG_S = 120.0
"""A process that has just begun fills its caches and pools: what it takes then is no growth."""
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True, slots=True)
class Sample:
    at: float
    process: str
    pid: int
    rss_mib: float
    pss_mib: float
    files: int


@dataclass(frozen=True, slots=True)
class Slope:
    """Units an hour, and its standard error; over so many seconds of `lives` processes."""

    per_h: float
    error: float
    lives: int
    seconds: float


def sampled(at: float, process: str, pid: int) -> Sample | None:
    """None when the process is gone."""
    with suppress(OSError, StopIteration, IndexError):
        rss = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MIB
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        pss = next(int(line.split()[1]) / 1024 for line in rollup if line.startswith("Pss:"))
        return Sample(at, process, pid, rss, pss, len(os.listdir(f"/proc/{pid}/fd")))
    return None


def slope(lives: Iterable[Sequence[tuple[float, float]]]) -> Slope | None:
    """The one line through (seconds, value) of several lives, each of which has its own level (least squares).

    The first two minutes of each do not count. None when too little is left.
    """
    grown = [[each for each in life if each[0] - life[0][0] >= YOUNG_S] for life in lives if life]
    grown = [life for life in grown if len(life) >= 3]
    if not grown:
        return None
    points = [point for life in grown for point in _centred(life)]
    spread = sum(at * at for at, _ in points)
    rise = sum(at * value for at, value in points) / spread
    rest = sum((value - rise * at) ** 2 for at, value in points)
    error = math.sqrt(rest / max(1, len(points) - len(grown) - 1) / spread)
    return Slope(rise * 3600, error * 3600, len(grown), sum(life[-1][0] - life[0][0] for life in grown))


def _centred(life: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    middle = sum(at for at, _ in life) / len(life)
    level = sum(value for _, value in life) / len(life)
    return [(at - middle, value - level) for at, value in life]


def lives(samples: Iterable[Sample], what: str) -> dict[str, list[list[tuple[float, float]]]]:
    """Process -> (seconds, `what`) of each of its lives: a process that was replaced counts anew."""
    found: dict[str, dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for each in samples:
        found[each.process][each.pid].append((each.at, float(getattr(each, what))))
    return {process: list(by_pid.values()) for process, by_pid in found.items()}
