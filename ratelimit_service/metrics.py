"""What ratelimit_service counts."""

from typing import get_args

from prometheus_client import REGISTRY, CollectorRegistry, Counter

from ratelimit_service.store import Decision, FailureKind


class Metrics:
    """`api_rate_limit_decisions_total{limit,result}`, and what went wrong with the store (`resilient.Observer`)."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._decisions = Counter(
            "api_rate_limit_decisions_total", "Decisions, by limit.", ["limit", "result"], registry=registry
        )
        self._errors = Counter(
            "api_rate_limit_store_errors_total", "Calls to the store that failed.", ["kind"], registry=registry
        )
        for kind in get_args(FailureKind):  # from 0, so that the first failure shows as an increase
            self._errors.labels(kind)
        self._degraded = Counter(
            "api_rate_limit_degraded_total", "Decisions taken without the store.", registry=registry
        )
        self._lost = Counter(
            "api_rate_limit_events_lost_total", "Ends of requests that the store never heard of.", registry=registry
        )
        self._unreadable = Counter(
            "api_key_limits_unreadable_total",
            "Limits of keys that could not be read: they don't count.",
            registry=registry,
        )
        self._known: dict[tuple[str, str], Counter] = {}

    def decided(self, decision: Decision) -> None:
        """Count what each limit of a request said. Limit names come from the configuration: they are few."""
        for outcome in decision.outcomes:
            limit = outcome.charge.limit
            self._count(limit.name, _result(outcome.allowed, limit.shadow, decision))
        for lease in decision.leases:
            self._count(lease.ask.name, _result(lease.allowed, lease.ask.shadow, decision))

    def on_failure(self, kind: FailureKind) -> None:
        self._errors.labels(kind).inc()

    def on_degraded(self) -> None:
        self._degraded.inc()

    def on_lost(self, events: int) -> None:
        self._lost.inc(events)

    def on_unreadable_limits(self) -> None:
        self._unreadable.inc()

    def _count(self, limit: str, result: str) -> None:
        counter = self._known.get((limit, result))
        if counter is None:
            counter = self._known[limit, result] = self._decisions.labels(limit, result)
        counter.inc()


def _result(allowed: bool, shadow: bool, decision: Decision) -> str:
    """`allowed`, `limited`, `shadow_limited`, or `unused`: this limit had room, another one refused."""
    if not allowed:
        return "shadow_limited" if shadow else "limited"
    return "allowed" if decision.allowed else "unused"
