"""What the service counts, under the names of envoyproxy/ratelimit's built-in Prometheus mapping.

`ratelimit_service_rate_limit_{total_hits,over_limit,near_limit,within_limit,shadow_mode}{domain,key1[,key2]}`; levels
below the second are added up, as there. The full paths stand on the debug page `/stats`. Values of requests can get
into paths (`detailed_metric`, overrides), so their number is bounded: beyond `MAX_PATHS` all count as `other`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from ratelimit_service.dropin.decide import Status, Verdict

MAX_PATHS = 10_000
OTHER = "other"

Path = tuple[str, ...]

_RATE_LIMIT = "ratelimit_service_rate_limit"
_COUNTS = ("total_hits", "over_limit", "near_limit", "within_limit", "shadow_mode")


class Stats(Collector):
    """Counts since the start, and a collector of them for `registry`.

    A hit is near the limit when it falls into what `near_ratio` of the amount leaves.
    """

    def __init__(self, registry: CollectorRegistry, near_ratio: float = 0.8) -> None:
        self._near_ratio = near_ratio
        self._limits: defaultdict[Path, Counter[str]] = defaultdict(Counter)
        self._unknown_domains: Counter[str] = Counter()
        self._events: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._seconds = Histogram(
            "ratelimit_service_response_time_seconds", "Time to answer.", ["grpc_method"], registry=registry
        ).labels("ShouldRateLimit")
        registry.register(self)

    def answered(self, verdict: Verdict) -> None:
        for status in verdict.statuses:
            if status.match is not None and status.match.rate_limit.limit is not None:
                self._count(status, status.match.stat)
        if verdict.shadowed:
            self._events["global_shadow_mode"] += 1

    def took(self, seconds: float) -> None:
        """A call of ShouldRateLimit ended, however it did."""
        self._events["total_requests"] += 1
        self._seconds.observe(seconds)

    def domain_not_found(self, domain: str) -> None:
        self._unknown_domains[_bounded(domain, self._unknown_domains)] += 1

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
        for kind in ("redis_error", "service_error"):
            yield f"ratelimit.service.call.should_rate_limit.{kind}: {self._errors[kind]}"
        for event in ("config_load_success", "config_load_error", "global_shadow_mode"):
            yield f"ratelimit.service.{event}: {self._events[event]}"
        yield f"ratelimit_server.ShouldRateLimit.total_requests: {self._events['total_requests']}"

    def collect(self) -> Iterable[Metric]:
        """The counters. Their names do not end in `_total`, so to prometheus_client they are of unknown type."""
        totals = self._by_labels()
        for name in _COUNTS:
            yield _metric(f"{_RATE_LIMIT}_{name}", ((dict(labels), c[name]) for labels, c in totals.items()))
        unknown = (({"domain": domain}, count) for domain, count in self._unknown_domains.items())
        yield _metric(f"{_RATE_LIMIT}_domain_not_found", unknown)
        errors = (({"err_type": kind}, self._errors[kind]) for kind in ("redis_error", "service_error"))
        yield _metric("ratelimit_service_should_rate_limit_error", errors)
        total = self._events["total_requests"]
        yield _metric("ratelimit_service_total_requests", [({"grpc_method": "ShouldRateLimit"}, total)])
        for event in ("config_load_success", "config_load_error", "global_shadow_mode"):
            yield _metric(f"ratelimit_service_{event}", [({}, self._events[event])])

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
        used, threshold = limit.capacity - status.remaining, int(limit.capacity * self._near_ratio)
        return min(status.hits, max(0, used - threshold))

    def _by_labels(self) -> Mapping[tuple[tuple[str, str], ...], Counter[str]]:
        totals: defaultdict[tuple[tuple[str, str], ...], Counter[str]] = defaultdict(Counter)
        for path, counts in self._limits.items():
            totals[tuple(zip(("domain", "key1", "key2"), path, strict=False))].update(counts)
        return totals


def _bounded(name: str, known: Mapping[str, int]) -> str:
    return name if name in known or len(known) < MAX_PATHS else OTHER


def _metric(name: str, samples: Iterable[tuple[dict[str, str], int]]) -> Metric:
    metric = Metric(name, f"See {name} of envoyproxy/ratelimit.", "unknown")
    for labels, value in samples:
        metric.add_sample(name, labels, value)
    return metric
