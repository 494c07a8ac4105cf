"""What authz_service counts."""

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import REGISTRY, CollectorRegistry, Counter

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
