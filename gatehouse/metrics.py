"""Prometheus samples of several processes in one exposition.

Each process keeps its samples in memory-mapped files named after itself (`authz-0`, not a process id): they outlive a
crash, a restarted worker goes on counting where it stopped, and the number of files is bounded. This is
prometheus_client's multiprocess mode with identities of our own.

Names that prometheus_client does not document are used here and in `files.sample_file` only, and
tests/unit/test_private_names.py says which of them a new version has broken.
"""

import json
import os
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest, samples, values
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from gatehouse.files.sample_file import SampleFile


def share(directory: Path, process: str) -> None:
    """Keep this process's samples in `directory` under the name `process`. Call it before any metric is made."""
    directory.mkdir(parents=True, exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    setattr(values, "MmapedDict", SampleFile)  # noqa: B010  # its own would end a process whose disk is full
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: process)  # type: ignore[no-untyped-call]


def started(worker: str, registry: CollectorRegistry = REGISTRY) -> None:
    """Count a start of `worker` in `api_worker_starts_total{worker}`: more than one, and something ended it."""
    Counter("api_worker_starts_total", "Starts of workers.", ["worker"], registry=registry).labels(worker).inc()


def label_names(metric: Counter | Histogram) -> tuple[str, ...]:
    return tuple(metric._labelnames)


def observe_many(histogram: Histogram, observed: Sequence[float]) -> None:
    """`Histogram.observe` for many values: each bucket, and the sum, is written once."""
    histogram._sum.inc(sum(observed))
    for bucket, count in Counts(bisect_left(histogram._upper_bounds, value) for value in observed).items():
        histogram._buckets[bucket].inc(count)


class Observed(NamedTuple):
    """Which histogram an observation went to: its name, labels and the upper bounds of its buckets."""

    metric: str
    labels: Mapping[str, str]
    bounds: Sequence[float]


def series_of(histogram: Histogram) -> Observed:
    """`histogram` is one with its label values."""
    labels = dict(zip(histogram._labelnames, histogram._labelvalues, strict=True))
    return Observed(histogram._name, labels, histogram._upper_bounds)


class Exemplar(NamedTuple):
    """A trace in which `value` was observed, at `time` (Unix seconds), for the bucket of `metric` up to `bound`."""

    metric: str
    labels: Mapping[str, str]
    bound: float
    trace_id: str
    value: float
    time: float


def exemplar_file(directory: Path, process: str) -> Path:
    """Where `process` keeps its exemplars, as a JSON list."""
    return directory / f"{process}.exemplars.json"


def exposition(directory: Path, beside: bytes = b"", *, openmetrics: bool = False) -> bytes:
    """The merged samples of every process that shares `directory`, and those `beside`, in Prometheus' text format.

    Or all of them, with exemplars, as OpenMetrics 1.0.
    """
    registry = CollectorRegistry()
    registry.register(_Shared(directory, exemplars=openmetrics))
    if not openmetrics:
        return generate_latest(registry) + beside
    registry.register(_Beside(beside.decode()))
    return openmetrics_text(registry)  # type: ignore[no-any-return, no-untyped-call]


def text(families: Iterable[Metric]) -> bytes:
    """`families` in Prometheus' text format; nothing for none. They are of this moment: no process keeps them."""
    found = list(families)
    registry = CollectorRegistry()
    registry.register(_Collected(found))
    return generate_latest(registry) if found else b""


class _Collected(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class _Shared(Collector):
    def __init__(self, directory: Path, *, exemplars: bool) -> None:
        self._directory = directory
        self._exemplars = exemplars

    def collect(self) -> Iterator[Metric]:
        newest = _newest(self._directory) if self._exemplars else {}
        collector = MultiProcessCollector(None, path=str(self._directory))  # type: ignore[no-untyped-call]
        for family in collector.collect():  # type: ignore[no-untyped-call]
            if newest:
                family.samples = [_with_exemplar(sample, newest) for sample in family.samples]
            yield family


class _Beside(Collector):
    def __init__(self, text: str) -> None:
        self._text = text

    def collect(self) -> Iterator[Metric]:
        yield from text_string_to_metric_families(self._text)


_Bucket = tuple[str, frozenset[tuple[str, str]], float]


def _newest(directory: Path) -> dict[_Bucket, Exemplar]:
    """By bucket. A file that can't be read has none."""
    found: dict[_Bucket, Exemplar] = {}
    for path in directory.glob("*.exemplars.json"):
        with suppress(OSError, ValueError, TypeError):
            for each in map(Exemplar._make, json.loads(path.read_bytes())):
                bucket = each.metric, frozenset(each.labels.items()), each.bound
                if bucket not in found or found[bucket].time < each.time:
                    found[bucket] = each
    return found


def _with_exemplar(sample: Sample, newest: Mapping[_Bucket, Exemplar]) -> Sample:
    if "le" not in sample.labels:
        return sample
    labels = frozenset((name, value) for name, value in sample.labels.items() if name != "le")
    each = newest.get((sample.name.removesuffix("_bucket"), labels, float(sample.labels["le"])))
    if each is None:
        return sample
    return sample._replace(exemplar=samples.Exemplar({"trace_id": each.trace_id}, each.value, each.time))


class Reloads:
    """`api_config_reloads_total{result}`: what became of changed files. Both results count from 0."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        counter = Counter("api_config_reloads_total", "Changes of configuration files.", ["result"], registry=registry)
        self.applied, self.rejected = counter.labels("applied"), counter.labels("rejected")
