"""Prometheus metrics of ratelimit_service."""

import asyncio
from collections import Counter as Counts
from typing import get_args

from prometheus_client import REGISTRY, CollectorRegistry, Counter

from ratelimit_service.store.clock_watch import Clock
from ratelimit_service.store.port import Decision, FailureKind

FLUSH_S = 0.05
"""How long counts of decisions are buffered: a sample that all workers share takes 2 µs to write, a decision has one
for each limit, and many decisions have the same."""


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
            "api_rate_limit_degraded_total", "Decisions and refusals without the store.", registry=registry
        )
        self._lost = Counter(
            "api_rate_limit_events_lost_total",
            "Admissions, settlements and renewals that never reached the store.",
            registry=registry,
        )
        self._restored = Counter(
            "api_rate_limit_restored_total",
            "Times that usage was restored to an empty store.",
            registry=registry,
        )
        self._unrestored = Counter(
            "api_rate_limit_unrestored_total",
            "Times that limits of a day and more started at zero because their usage was unknown.",
            registry=registry,
        )
        self._steps = Counter("api_clock_steps_total", "Clock steps.", ["clock"], registry=registry)
        for clock in get_args(Clock):
            self._steps.labels(clock)
        self._unidentified = Counter(
            "api_rate_limit_unidentified_total",
            "Calls refused because they did not say whose limits apply.",
            registry=registry,
        )
        self._overrun = Counter(
            "api_rate_limit_overrun_total", "Calls refused because too many were waiting.", registry=registry
        )
        self._unreadable = Counter(
            "api_key_limits_unreadable_total",
            "Limits of keys that could not be parsed and are not applied.",
            registry=registry,
        )
        self._unwritten: Counts[tuple[str, str]] = Counts()

    def decided(self, decision: Decision) -> None:
        """Count the result of each limit of a request. Limit names come from the configuration, so they are few.

        Called in the event loop; counts are written after `FLUSH_S`, or by `flush`.
        """
        found = [(o.charge.limit.name, _result(o.allowed, o.charge.limit.shadow, decision)) for o in decision.outcomes]
        found += [(lease.ask.name, _result(lease.allowed, lease.ask.shadow, decision)) for lease in decision.leases]
        if found and not self._unwritten:
            asyncio.get_running_loop().call_later(FLUSH_S, self.flush)
        self._unwritten.update(found)

    def flush(self) -> None:
        """Write the buffered counts."""
        for (limit, result), count in self._unwritten.items():
            self._decisions.labels(limit, result).inc(count)
        self._unwritten.clear()

    def on_failure(self, kind: FailureKind) -> None:
        self._errors.labels(kind).inc()

    def on_degraded(self) -> None:
        self._degraded.inc()

    def on_lost(self, events: int) -> None:
        self._lost.inc(events)

    def on_restored(self, _limits: int) -> None:
        self._restored.inc()

    def on_unrestored(self) -> None:
        self._unrestored.inc()

    def on_clock_step(self, clock: Clock) -> None:
        self._steps.labels(clock).inc()

    def on_unidentified(self) -> None:
        self._unidentified.inc()

    def on_overrun(self) -> None:
        self._overrun.inc()

    def on_unreadable_limits(self) -> None:
        self._unreadable.inc()


def _result(allowed: bool, shadow: bool, decision: Decision) -> str:
    """`allowed`, `limited`, `shadow_limited`, or `unused`: this limit had room, another one refused."""
    if not allowed:
        return "shadow_limited" if shadow else "limited"
    return "allowed" if decision.allowed else "unused"
