"""What the service counts, under the names of envoyproxy/ratelimit's built-in Prometheus mapping.

`ratelimit_service_rate_limit_{total_hits,over_limit,near_limit,within_limit,shadow_mode}{domain,key1[,key2]}`; levels
below the second are added up, as there. The full paths stand on the debug page `/stats`. Values of requests can get
into paths (`detailed_metric`, overrides), so their number is bounded: beyond `MAX_PATHS` all count as `other`.
"""

import struct
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import lru_cache

from ratelimit_service.dropin.decide import Status, Verdict
from ratelimit_service.dropin.exposition import Histogram, Sample, metric

MAX_PATHS = 10_000
OTHER = "other"

Path = tuple[str, ...]

_RATE_LIMIT = "ratelimit_service_rate_limit"
_METHOD = {"grpc_method": "ShouldRateLimit"}
_ERRORS = ("redis_error", "service_error")
_EVENTS = ("config_load_success", "config_load_error", "global_shadow_mode")
_COUNTS = ("total_hits", "over_limit", "near_limit", "within_limit", "shadow_mode")


class Stats:
    """Counts since the start.

    A hit is near the limit when it falls into what `near_ratio` of the amount leaves. With `split_labels` a name with
    dots becomes several labels, as it does there: `my.domain` is the domain `my` and the key `domain`.
    """

    def __init__(self, near_ratio: float = 0.8, *, split_labels: bool = False) -> None:
        self._near_ratio = near_ratio
        self._split_labels = split_labels
        self._limits: defaultdict[Path, Counter[str]] = defaultdict(Counter)
        self._unknown_domains: Counter[str] = Counter()
        self._events: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._seconds = Histogram()

    def answered(self, verdict: Verdict) -> None:
        for status in verdict.statuses:
            if status.match is not None and status.match.rate_limit.limit is not None:
                self._count(status, status.match.stat)
        if verdict.shadowed:
            self._events["global_shadow_mode"] += 1

    def took(self, seconds: float) -> None:
        """A call of ShouldRateLimit ended, with or without an error."""
        self._events["total_requests"] += 1
        self._seconds.observe(seconds)

    def domain_not_found(self, domain: str, times: int = 1) -> None:
        self._unknown_domains[_bounded(domain, self._unknown_domains)] += times

    def failed(self, kind: str) -> None:
        """A call without an answer: `redis_error` or `service_error`."""
        self._errors[kind] += 1

    def config_loaded(self, succeeded: bool) -> None:
        self._events["config_load_success" if succeeded else "config_load_error"] += 1

    def lines(self) -> Iterator[str]:
        """Everything, one `path: count` a line, with the paths that envoyproxy/ratelimit sends to statsd."""
        for path, counts in self._limits.items():
            for name in _COUNTS:
                yield f"ratelimit.service.rate_limit.{'.'.join(path)}.{name}: {counts[name]}"
        for domain, count in self._unknown_domains.items():
            yield f"ratelimit.service.rate_limit.{domain}.domain_not_found: {count}"
        for kind in _ERRORS:
            yield f"ratelimit.service.call.should_rate_limit.{kind}: {self._errors[kind]}"
        for event in _EVENTS:
            yield f"ratelimit.service.{event}: {self._events[event]}"
        yield f"ratelimit_server.ShouldRateLimit.total_requests: {self._events['total_requests']}"

    def exposition(self) -> str:
        """Everything, in Prometheus' text format."""
        return "".join(self._metrics())

    def _metrics(self) -> Iterator[str]:
        totals = self._by_labels()
        for name in _COUNTS:
            samples = (Sample(dict(labels), counts[name]) for labels, counts in totals.items())
            yield from metric(f"{_RATE_LIMIT}_{name}", "counter", samples)
        unknown = (Sample({"domain": domain}, count) for domain, count in self._unknown_domains.items())
        yield from metric(f"{_RATE_LIMIT}_domain_not_found", "counter", unknown)
        errors = (Sample({"err_type": kind}, self._errors[kind]) for kind in _ERRORS)
        yield from metric("ratelimit_service_should_rate_limit_error", "counter", errors)
        total = Sample(_METHOD, self._events["total_requests"])
        yield from metric("ratelimit_service_total_requests", "counter", [total])
        for event in _EVENTS:
            yield from metric(f"ratelimit_service_{event}", "counter", [Sample({}, self._events[event])])
        yield from metric("ratelimit_service_response_time_seconds", "histogram", self._seconds.samples(_METHOD))

    def _count(self, status: Status, stat: Path) -> None:
        known = stat in self._limits or len(self._limits) < MAX_PATHS
        counts, hits = self._limits[stat if known else (OTHER, OTHER)], status.hits
        counts["total_hits"] += hits
        if not status.over:
            counts["within_limit"] += hits
            counts["near_limit"] += self._near(status)
            return
        counts["over_limit"] += hits
        if status.match is not None and status.match.rate_limit.shadow:
            counts["shadow_mode"] += hits

    def _near(self, status: Status) -> int:
        """How many of the hits lie above the threshold."""
        limit = status.match.rate_limit.limit if status.match is not None else None
        if limit is None:
            return 0
        used = limit.capacity - status.remaining
        return min(status.hits, max(0, used - _threshold(limit.capacity, self._near_ratio)))

    def _by_labels(self) -> Mapping[tuple[tuple[str, str], ...], Counter[str]]:
        totals: defaultdict[tuple[tuple[str, str], ...], Counter[str]] = defaultdict(Counter)
        for path, counts in self._limits.items():
            parts = ".".join(path).split(".") if self._split_labels else path
            totals[tuple(zip(("domain", "key1", "key2"), parts, strict=False))].update(counts)
        return totals


@lru_cache
def _threshold(capacity: int, ratio: float) -> int:
    """Computed in 32 bits, as there: 0.7 of 90 gives 63, in 64 bits 62."""
    return int(_single(_single(capacity) * _single(ratio)))


def _single(number: float) -> float:
    rounded: float = struct.unpack("f", struct.pack("f", number))[0]
    return rounded


def _bounded(name: str, known: Mapping[str, int]) -> str:
    return name if name in known or len(known) < MAX_PATHS else OTHER
