"""What a soak found, as text for people and as JSON."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from tests.soak.ledger import Violation
from tests.soak.samples import Sample, Slope, lives, slope

JUDGED_FROM_S = 1800.0
"""A slope of less is told and not judged: the noise of a process's memory is more than what is asked for."""
MAX_MIB_PER_H = 1.0
_VARIES = re.compile(r"\([^)]*\)|\d+\.?\d*")
_OWN = {"soak", "model server"}


@dataclass(frozen=True, slots=True)
class Moment:
    """Ten seconds of load. `quiet`: no fault was near."""

    at: float
    rate: float
    p50_ms: float
    p99_ms: float
    quiet: bool


def alike(violations: Iterable[Violation]) -> Iterator[str]:
    """Those that differ in numbers and kinds of requests only as one line, with how often and one of them."""
    found: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for each in violations:
        found[each.invariant, each.fault, _VARIES.sub("#", each.text)].append(each.text)
    for (invariant, fault, _), texts in found.items():
        yield f"VIOLATION {invariant} [{fault}] {len(texts)} x {texts[0]}"


@dataclass(frozen=True, slots=True)
class Report:
    seconds: float
    asked: int
    faults: Sequence[str]
    violations: Sequence[Violation]
    counts: Mapping[str, int]
    moments: Sequence[Moment]
    samples: Sequence[Sample]

    @property
    def memory(self) -> dict[str, Slope]:
        """MiB an hour, by process."""
        return self._slopes("pss_mib")

    @property
    def files(self) -> dict[str, Slope]:
        """Descriptors an hour, by process."""
        return self._slopes("files")

    @property
    def latency(self) -> Slope | None:
        """Milliseconds of the median an hour, of the times without fault."""
        return slope([[(each.at, each.p50_ms) for each in self.moments if each.quiet and each.p50_ms == each.p50_ms]])

    @property
    def grown(self) -> list[str]:
        """Processes of the gateway that hold more and more."""
        if self.seconds < JUDGED_FROM_S:
            return []
        slopes = {name: found for name, found in self.memory.items() if name not in _OWN}
        return [name for name, found in slopes.items() if found.per_h - 2 * found.error > MAX_MIB_PER_H]

    @property
    def good(self) -> bool:
        return not self.violations and not self.grown

    def _slopes(self, what: str) -> dict[str, Slope]:
        found = {name: slope(each) for name, each in sorted(lives(self.samples, what).items())}
        return {name: each for name, each in found.items() if each}

    def json(self) -> str:
        about: dict[str, Any] = {
            "seconds": round(self.seconds),
            "asked": self.asked,
            "rate": round(self.asked / self.seconds, 1),
            "good": self.good,
            "grown": self.grown,
            "faults": list(self.faults),
            "violations": [asdict(each) for each in self.violations],
            "counts": dict(self.counts),
            "memory_mib_per_h": {name: asdict(each) for name, each in self.memory.items()},
            "files_per_h": {name: asdict(each) for name, each in self.files.items()},
            "median_ms_per_h": asdict(self.latency) if self.latency else None,
            "moments": [asdict(each) for each in self.moments],
            "samples": [asdict(each) for each in self.samples],
        }
        return json.dumps(about, indent=1)

    def lines(self) -> Iterator[str]:
        quiet = [each for each in self.moments if each.quiet] or self.moments
        yield f"{self.seconds / 60:.1f} minutes, {self.asked} requests ({self.asked / self.seconds:.0f}/s), "
        yield f"{len(self.faults)} faults, {len(self.violations)} violations"
        if quiet:
            p50, p99 = (median(getattr(each, name) for each in quiet) for name in ("p50_ms", "p99_ms"))
            yield f"without fault: p50 {p50:.0f} ms, p99 {p99:.0f} ms (medians of ten seconds each)"
        if self.latency:
            yield f"the median grows by {self.latency.per_h:+.1f} ± {2 * self.latency.error:.1f} ms an hour"
        yield "counted, and no violation: " + ", ".join(f"{name}: {n}" for name, n in sorted(self.counts.items()))
        head = f"{'process':<16}{'lives':>6}{'minutes':>9}{'PSS MiB':>9}{'most':>8}"
        yield f"{head}{'MiB/h':>16}{'files':>7}{'files/h':>14}"
        for name, grows in self.memory.items():
            yield self._line(name, grows, self.files[name])
        yield from alike(self.violations)
        yield from (f"GROWS {name}: {self.memory[name].per_h:.1f} MiB an hour" for name in self.grown)

    def _line(self, name: str, memory: Slope, files: Slope) -> str:
        seen = [each for each in self.samples if each.process == name]
        pss = [each.pss_mib for each in seen]
        rise = f"{memory.per_h:+.2f} ± {2 * memory.error:.2f}"
        opened = f"{files.per_h:+.1f} ± {2 * files.error:.1f}"
        head = f"{name:<16}{memory.lives:>6}{memory.seconds / 60:>9.1f}{median(pss):>9.1f}{max(pss):>8.1f}"
        return f"{head}{rise:>16}{median(each.files for each in seen):>7.0f}{opened:>14}"
