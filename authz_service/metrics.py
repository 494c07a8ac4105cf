"""What authz_service counts."""

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from authz_service.decide import Result


@dataclass(frozen=True, slots=True)
class Metrics:
    """`api_auth_decisions_total{result}`, a counter for each result."""

    decisions: Mapping[Result, Counter]

    @classmethod
    def make(cls, registry: CollectorRegistry = REGISTRY) -> "Metrics":
        """Metrics in `registry`. Every result counts from 0, so that the first error shows as an increase."""
        decisions = Counter("api_auth_decisions_total", "Checks of API keys.", ["result"], registry=registry)
        return cls({result: decisions.labels(result) for result in Result})


class StoreMetrics:
    """Of the key store: `api_key_store_age_seconds` since it was last heard, and `api_key_store_errors_total`."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.errors = Counter("api_key_store_errors", "Failures of the key store.", registry=registry)
        self.age_s = Gauge(
            "api_key_store_age_seconds",
            "Time since the key store last answered, in the worker that waits longest; 0 while it does.",
            registry=registry,
            multiprocess_mode="max",
        )
