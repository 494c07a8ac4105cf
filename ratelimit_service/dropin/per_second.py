"""A store that keeps limits per second in a separate store."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from ratelimit_service.store.port import Ask, Charge, Decision, Renewal, Settlement, Store

_Half = Callable[[Store, Ask], Awaitable[Decision]]


class PerSecond:
    """A `Store` whose charges with a period of one second go to `seconds`, everything else to `others`.

    A request with both is first checked in both stores, and charged only if both would admit it. Between the two steps
    another request may take the rest: then one store refuses what the other has charged.
    """

    def __init__(self, seconds: Store, others: Store) -> None:
        self._seconds = seconds
        self._others = others

    async def decide(self, ask: Ask) -> Decision:
        if not self._is_mixed(ask):
            return await self._both(ask, _decide)
        before = await self._both(ask, _peek)
        return await self._both(ask, _decide) if before.allowed else before

    async def peek(self, ask: Ask) -> Decision:
        return await self._both(ask, _peek)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        for store, wanted in ((self._seconds, True), (self._others, False)):
            await store.settle([_settlement(settlement, wanted) for settlement in settlements])

    async def refund(self, charges: Sequence[Charge]) -> None:
        await self._seconds.refund(_charges(charges, True))
        await self._others.refund(_charges(charges, False))

    async def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        return await self._others.renew(renewals)

    async def close(self) -> None:
        await self._seconds.close()
        await self._others.close()

    async def _both(self, ask: Ask, half: _Half) -> Decision:
        seconds = Ask(ask.request_id, _charges(ask.charges, True))
        others = Ask(ask.request_id, _charges(ask.charges, False), ask.leases)
        first, second = await asyncio.gather(_asked(half, self._seconds, seconds), _asked(half, self._others, others))
        halves = {True: iter(first.outcomes), False: iter(second.outcomes)}
        outcomes = tuple(next(halves[_is_per_second(charge)]) for charge in ask.charges)
        return Decision(first.allowed and second.allowed, outcomes, second.leases)

    def _is_mixed(self, ask: Ask) -> bool:
        return len({_is_per_second(charge) for charge in ask.charges} | ({False} if ask.leases else set())) > 1


async def _decide(store: Store, ask: Ask) -> Decision:
    return await store.decide(ask)


async def _peek(store: Store, ask: Ask) -> Decision:
    return await store.peek(ask)


async def _asked(half: _Half, store: Store, ask: Ask) -> Decision:
    return await half(store, ask) if ask.charges or ask.leases else Decision(True)


def _is_per_second(charge: Charge) -> bool:
    return charge.limit.period_s == 1


def _charges(charges: Sequence[Charge], per_second: bool) -> tuple[Charge, ...]:
    return tuple(charge for charge in charges if _is_per_second(charge) is per_second)


def _settlement(settlement: Settlement, per_second: bool) -> Settlement:
    leases = () if per_second else settlement.leases
    return Settlement(settlement.request_id, _charges(settlement.charges, per_second), leases)
