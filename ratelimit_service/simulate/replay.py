"""Replays past requests against the limiter's executable specification (`store.memory`, `store.algorithms`).

Requests come in the order in which they began. A heap of future events holds the ends of running requests and the next
tries of waiting ones, so memory depends on how many run at one time.
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from heapq import heappop, heappush
from typing import NamedTuple

from gatehouse.contract import metering
from ratelimit_service.answer import refusal
from ratelimit_service.caller import Caller
from ratelimit_service.plan import Plan, Plans
from ratelimit_service.service import LEASE_RELEASE_LAG_S, LEASE_RETRY_STEP_S
from ratelimit_service.simulate.logged import KeyLimits, Logged, caller
from ratelimit_service.store.memory import MemoryStore
from ratelimit_service.store.port import Decision

_WAIT_MS, _STEP_MS = round(LEASE_RELEASE_LAG_S * 1000), round(LEASE_RETRY_STEP_S * 1000)
LEASE_TTL_MS = 10**11
"""Lease time for the plans of a replay: every lease is sure to be released, so it needs no renewals."""


class Verdict(NamedTuple):
    """The outcome of a request. `limit` would have refused it, or is None; `shadows` would have, were they enforced."""

    record: Logged
    limit: str | None
    shadows: tuple[str, ...] = ()


class _Running(NamedTuple):
    """An admitted request, at its end."""

    record: Logged
    caller: Caller


class _Waiting(NamedTuple):
    """A request that only limits on concurrency refuse, at its next try."""

    record: Logged
    caller: Caller
    plan: Plan


class Replay:
    """One run. `keys` are the limits of single keys, by key id."""

    def __init__(self, plans: Plans, keys: Mapping[str, KeyLimits]) -> None:
        self._plans = plans
        self._keys = keys
        self._now = 0
        self._store = MemoryStore(lambda: self._now)
        self._future: list[tuple[int, int, _Running | _Waiting]] = []
        self._events = 0
        self._latest_ms: dict[str, int] = {}

    async def run(self, records: Iterable[Logged]) -> AsyncIterator[Verdict]:
        """A verdict for each of `records` that the limiter was asked about, as soon as there is one."""
        for number, record in enumerate(records):
            async for late in self._until(record.start_ms):
                yield late
            if not record.was_asked:
                continue
            self._now = max(self._now, record.start_ms)
            who = caller(record, number, self._keys)
            if verdict := await self._ask(_Waiting(record, who, self._plans.plan(who))):
                yield verdict
        async for last in self._until(None):
            yield last

    async def _until(self, time_ms: int | None) -> AsyncIterator[Verdict]:
        """Process all events up to `time_ms`, or all there are."""
        while self._future and (time_ms is None or self._future[0][0] <= time_ms):
            self._now, _, event = heappop(self._future)
            if isinstance(event, _Running):
                await self._end(event)
            elif verdict := await self._ask(event):
                yield verdict

    async def _end(self, running: _Running) -> None:
        used = running.record.used(self._plans.guess(running.caller))
        if used and metering.teaches(running.record):
            self._plans.learn(running.caller, used)
        await self._store.settle([self._plans.settlement(running.caller, used)])

    async def _ask(self, asked: _Waiting) -> Verdict | None:
        """None: not decided yet."""
        record, who, plan = asked
        if not plan.rules and not plan.concurrency:
            return Verdict(record, None)
        decision = await self._store.decide(plan.ask)
        if decision.allowed:
            if plan.concurrency or any(charge.reserve for charge in plan.ask.charges):
                self._later(max(self._now, record.start_ms + self._duration_ms(record)), _Running(record, who))
            return Verdict(record, None, _shadows(decision))
        if decision.only_leases_refuse and self._now - record.start_ms < _WAIT_MS:
            self._later(self._now + _STEP_MS, asked)
            return None
        return Verdict(record, refusal(plan, decision, who).limited_by, _shadows(decision))

    def _duration_ms(self, record: Logged) -> int:
        """How long it ran. A refused one gets the duration of the last request that its model answered."""
        if record.limited_by is not None:
            return self._latest_ms.get(record.model, record.duration_ms)
        if record.status < 400:
            self._latest_ms[record.model] = record.duration_ms
        return record.duration_ms

    def _later(self, time_ms: int, event: _Running | _Waiting) -> None:
        self._events += 1
        heappush(self._future, (time_ms, self._events, event))


def _shadows(decision: Decision) -> tuple[str, ...]:
    charges = (o.charge.limit.name for o in decision.outcomes if not o.allowed and o.charge.limit.shadow)
    return (*charges, *(lease.ask.name for lease in decision.leases if not lease.allowed and lease.ask.shadow))
