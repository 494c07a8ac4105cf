"""What ratelimit_service counts."""

import asyncio
from collections import Counter as Counts
from typing import get_args

from prometheus_client import REGISTRY, CollectorRegistry, Counter

from ratelimit_service.store.clock_watch import Clock
from ratelimit_service.store.port import Decision, FailureKind

FLUSH_S = 0.05
"""How far the counts of decisions may lag behind: a sample that all workers share takes 2 µs to write, a decision has
one for each limit, and many decisions have the same."""


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
        self._restored = Counter(
            "api_rate_limit_restored_total",
            "Times that a store without counts was told what was used.",
            registry=registry,
        )
        self._unrestored = Counter(
            "api_rate_limit_unrestored_total",
            "Times that limits of a day and more began whole, because nobody knew what was used of them.",
            registry=registry,
        )
        self._steps = Counter("api_clock_steps_total", "Steps of a clock.", ["clock"], registry=registry)
        for clock in get_args(Clock):
            self._steps.labels(clock)
        self._unidentified = Counter(
            "api_rate_limit_unidentified_total",
            "Calls that did not say whose limits to apply: refused.",
            registry=registry,
        )
        self._overrun = Counter(
            "api_rate_limit_overrun_total", "Calls refused because too many waited.", registry=registry
        )
        self._unreadable = Counter(
            "api_key_limits_unreadable_total",
            "Limits of keys that could not be read: they don't count.",
            registry=registry,
        )
        self._unwritten: Counts[tuple[str, str]] = Counts()

    def decided(self, decision: Decision) -> None:
        """Count what each limit of a request said. Limit names come from the configuration: they are few.

        Called in the event loop; it shows after `FLUSH_S`, or `flush`.
        """
        found = [(o.charge.limit.name, _result(o.allowed, o.charge.limit.shadow, decision)) for o in decision.outcomes]
        found += [(lease.ask.name, _result(lease.allowed, lease.ask.shadow, decision)) for lease in decision.leases]
        if found and not self._unwritten:
            asyncio.get_running_loop().call_later(FLUSH_S, self.flush)
        self._unwritten.update(found)

    def flush(self) -> None:
        """Write what was counted."""
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
