"""Prometheus' text format, version 0.0.4, as Go's client writes it: whole numbers without a point, names as given."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

Labels = Mapping[str, str]

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


@dataclass(frozen=True, slots=True)
class Sample:
    labels: Labels
    value: float
    suffix: str = ""


@dataclass(slots=True)
class Histogram:
    """Counts of seconds, by Prometheus' usual buckets."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        self.total += seconds
        self.counts[sum(bound < seconds for bound in BUCKETS)] += 1

    def samples(self, labels: Labels) -> Iterator[Sample]:
        count = 0
        for bound, more in zip((*map(_number, BUCKETS), "+Inf"), self.counts, strict=True):
            count += more
            yield Sample({**labels, "le": bound}, count, "_bucket")
        yield Sample(labels, self.total, "_sum")
        yield Sample(labels, count, "_count")


def metric(name: str, kind: str, samples: Iterable[Sample]) -> Iterator[str]:
    """The lines of one metric; `kind` is `counter` or `histogram`."""
    yield f"# HELP {name} See {name} of envoyproxy/ratelimit.\n"
    yield f"# TYPE {name} {kind}\n"
    for sample in samples:
        yield f"{name}{sample.suffix}{_labels(sample.labels)} {_number(sample.value)}\n"


def _labels(labels: Labels) -> str:
    pairs = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
