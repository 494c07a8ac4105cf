"""A store that caches exceeded limits and refuses their charges without a round trip."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from ratelimit_service.store.port import Ask, Charge, Decision, Outcome, Renewal, Settlement, Store

ENTRY_BYTES = 512
"""Approximate size of one cached charge."""


def clock_ms() -> int:
    """A monotonic clock, in milliseconds."""
    return time.monotonic_ns() // 1_000_000


class LocalCache:
    """A `Store` in front of `store` that caches up to `size_bytes` of refused charges (LRU).

    A charge that was refused stays refused until the time the store named. Until then a request with it is refused
    here, and its other charges are reported as untouched, as the store has not seen them. Charges that never refuse
    (`shadow`) always reach the store, so reported use is always counted.
    """

    def __init__(self, store: Store, size_bytes: int, clock: Callable[[], int] = clock_ms) -> None:
        self._store = store
        self._room = max(1, size_bytes // ENTRY_BYTES)
        self._clock = clock
        self._ends: OrderedDict[Charge, int] = OrderedDict()

    async def decide(self, ask: Ask) -> Decision:
        now = self._clock()
        waits = [self._wait(charge, now) for charge in ask.charges]
        if any(waits):
            return Decision(False, tuple(map(_outcome, ask.charges, waits)))
        decision = await self._store.decide(ask)
        if len({charge.bucket for charge in ask.charges}) == len(ask.charges):
            self._remember(decision.outcomes)
        return decision

    async def peek(self, ask: Ask) -> Decision:
        return await self._store.peek(ask)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        await self._store.settle(settlements)

    async def refund(self, charges: Sequence[Charge]) -> None:
        """Drop the charges' buckets from the cache: what was refused may pass again."""
        refunded = {charge.bucket for charge in charges}
        self._ends = OrderedDict((charge, end) for charge, end in self._ends.items() if charge.bucket not in refunded)
        await self._store.refund(charges)

    async def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        return await self._store.renew(renewals)

    async def close(self) -> None:
        await self._store.close()

    def _wait(self, charge: Charge, now: int) -> int:
        """How long the charge is known to be refused; 0 if nothing is known."""
        end = self._ends.get(charge)
        if end is None:
            return 0
        if end <= now:
            del self._ends[charge]
            return 0
        self._ends.move_to_end(charge)
        return end - now

    def _remember(self, outcomes: Sequence[Outcome]) -> None:
        """Those of charges that had their bucket to themselves: beside another one, a charge may wait for that."""
        now = self._clock()
        for outcome in outcomes:
            charge = outcome.charge
            if not outcome.allowed and not charge.limit.shadow:
                wait = charge.limit.period_ms if outcome.retry_after_ms is None else outcome.retry_after_ms
                self._ends[charge] = now + wait
        while len(self._ends) > self._room:
            self._ends.popitem(last=False)


def _outcome(charge: Charge, wait: int) -> Outcome:
    if wait:
        return Outcome(charge, allowed=False, remaining=0, reset_after_ms=wait, retry_after_ms=wait)
    return Outcome(charge, allowed=True, remaining=charge.limit.capacity, reset_after_ms=0, retry_after_ms=0)
