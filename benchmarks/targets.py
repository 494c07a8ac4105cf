"""Gatehouse's promises about speed, and the results."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.runner import Row

_OURS, _BARE, _FLOOR = "Gatehouse", "bare Envoy", "Envoy, same filters"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`found` is None where nothing was measured that could tell."""

    promise: str
    wanted: float
    found: float | None
    at_least: bool

    @property
    def kept(self) -> bool | None:
        if self.found is None:
            return None
        return self.found >= self.wanted if self.at_least else self.found <= self.wanted


class Medians:
    """The medians of all rounds."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def of(self, measure: str, contender: str, setting: str, value: str) -> float | None:
        found = [
            row.values[value]
            for row in self._rows
            if (row.measure, row.contender, row.setting) == (measure, contender, setting) and value in row.values
        ]
        return statistics.median(found) if found else None

    def ratio(self, measure: str, setting: str, value: str, other: str, ours: str = _OURS) -> float | None:
        a, b = self.of(measure, ours, setting, value), self.of(measure, other, setting, value)
        return None if a is None or not b else a / b

    def added(self, measure: str, setting: str, value: str, to: str = _BARE) -> float | None:
        a, b = self.of(measure, _OURS, setting, value), self.of(measure, to, setting, value)
        return None if a is None or b is None else a - b


def verdicts(rows: Sequence[Row], keys: int, models: int) -> list[Verdict]:
    """Every promise, in the order of the documentation."""
    of = Medians(rows)
    plain = "Gatehouse, 10 keys, 1 model"

    def grown(name: str) -> float | None:
        ratio = of.ratio("growth", "c=16", "cpu_us", plain, f"Gatehouse, {name}")
        return None if ratio is None else (ratio - 1) * 100

    def at_least(promise: str, wanted: float, found: float | None) -> Verdict:
        return Verdict(promise, wanted, found, at_least=True)

    def at_most(promise: str, wanted: float, found: float | None) -> Verdict:
        return Verdict(promise, wanted, found, at_least=False)

    rate = partial(of.ratio, "throughput", "c=16", "rate")
    first, other = (partial(of.added, "streaming", "100 streams", value) for value in ("ttft_p50", "transit_p50"))
    memory = of.of("memory", _OURS, "1000 streams", "pss_mib")
    return [
        at_least("requests/s over LiteLLM's, c=16", 15, rate("LiteLLM")),
        at_least("requests/s over FastAPI's, c=16", 5, rate("FastAPI + httpx")),
        at_least("requests/s over Envoy's with the same filters, c=16", 0.4, rate(_FLOOR)),
        at_most("added over bare Envoy at c=1, p50, ms", 1, of.added("throughput", "c=1", "p50_ms")),
        at_most("added over bare Envoy at c=1, p99, ms", 4, of.added("throughput", "c=1", "p99_ms")),
        at_most("at 500 requests/s by the clock, p99, ms", 10, of.of("steady", _OURS, "500/s", "p99_ms")),
        at_most("added before the first event, 100 streams, p50, ms", 1.5, first()),
        at_most("added to each other event, 100 streams, p50, ms", 0.1, other()),
        at_most("the whole gateway with 1,000 open streams, MiB", 300, memory),
        at_most(f"CPU a request with {keys} keys, % more", 5, grown(f"{keys} keys")),
        at_most(f"CPU a request with {models} models, % more", 5, grown(f"{models} models")),
    ]
