"""The stores in front of stores: what is remembered as over its limit, and limits per second elsewhere."""

import pytest

from ratelimit_service.dropin.local_cache import ENTRY_BYTES, LocalCache
from ratelimit_service.dropin.per_second import PerSecond
from ratelimit_service.store.limits import Algorithm, Limit
from ratelimit_service.store.memory import MemoryStore
from ratelimit_service.store.port import Ask, Charge, Decision, LeaseAsk, Settlement

pytestmark = pytest.mark.asyncio

MINUTE = Limit("minute", 1, 60, Algorithm.FIXED_WINDOW)
SECOND = Limit("second", 1, 1, Algorithm.FIXED_WINDOW)
SHADOW = Limit("shadow", 1, 60, Algorithm.FIXED_WINDOW, shadow=True)


def ask(*charges: Charge) -> Ask:
    return Ask("r", charges)


class Counting(MemoryStore):
    """How often the store was asked."""

    def __init__(self) -> None:
        self.now = 60_000_000
        self.asked = 0
        super().__init__(lambda: self.now)

    async def decide(self, ask: Ask) -> Decision:
        self.asked += 1
        return await super().decide(ask)


class Cached:
    """A cache with room for `entries`, over a store that counts."""

    def __init__(self, entries: int = 10) -> None:
        self.store = Counting()
        self.cache = LocalCache(self.store, entries * ENTRY_BYTES, clock=lambda: self.store.now)

    async def allowed(self, *charges: Charge) -> bool:
        return (await self.cache.decide(ask(*charges))).allowed


A, B, C = (Charge(key, MINUTE) for key in "abc")


async def test_what_is_over_is_refused_without_the_store() -> None:
    cached = Cached()
    assert [await cached.allowed(A) for _ in range(5)] == [True, False, False, False, False]
    assert cached.store.asked == 2


async def test_memory_ends_when_the_window_does() -> None:
    cached = Cached()
    for _ in range(2):
        await cached.allowed(A)
    cached.store.now += 59_999
    assert not await cached.allowed(A)
    cached.store.now += 1
    assert await cached.allowed(A)


async def test_one_limit_known_to_be_over_refuses_for_all() -> None:
    cached = Cached()
    for _ in range(2):
        await cached.allowed(A)
    decision = await cached.cache.decide(ask(B, A))
    assert [outcome.allowed for outcome in decision.outcomes] == [True, False]
    assert (decision.outcomes[1].reset_after_ms, cached.store.asked) == (60_000, 2)
    assert await cached.allowed(B)


async def test_limits_that_never_refuse_always_reach_the_store() -> None:
    cached = Cached()
    for _ in range(3):
        await cached.allowed(Charge("a", SHADOW))
    assert cached.store.asked == 3


async def test_what_is_in_excess_of_any_limit_is_remembered_too() -> None:
    cached = Cached()
    assert [await cached.allowed(Charge("a", MINUTE, 2)) for _ in range(2)] == [False, False]
    assert cached.store.asked == 1


async def test_smaller_request_may_still_pass() -> None:
    cached = Cached()
    assert [await cached.allowed(Charge("a", MINUTE, hits)) for hits in (2, 1)] == [False, True]


async def test_charge_that_waited_for_its_own_request_is_not_remembered() -> None:
    cached = Cached()
    assert not await cached.allowed(A, A)
    assert await cached.allowed(A)


async def test_memory_is_bounded_and_forgets_what_was_used_longest_ago() -> None:
    cached = Cached(entries=2)
    for charge in (A, B, C):
        for _ in range(2):
            await cached.allowed(charge)
    before = cached.store.asked
    assert not await cached.allowed(B)
    assert not await cached.allowed(C)
    assert cached.store.asked == before
    assert not await cached.allowed(A)
    assert cached.store.asked == before + 1


class Split:
    def __init__(self) -> None:
        self.seconds, self.others = Counting(), Counting()
        self.store = PerSecond(self.seconds, self.others)

    async def left(self, charge: Charge) -> int:
        return (await self.store.peek(ask(charge))).outcomes[0].remaining


SEC = Charge("a", SECOND)


async def test_limits_per_second_are_asked_of_their_own_store_only() -> None:
    split = Split()
    await split.store.decide(ask(SEC))
    assert (split.seconds.asked, split.others.asked) == (1, 0)
    await split.store.decide(ask(A))
    assert (split.seconds.asked, split.others.asked) == (1, 1)


async def test_outcomes_of_both_stores_stand_in_the_order_of_the_ask() -> None:
    decision = await Split().store.decide(ask(A, SEC, B))
    assert [outcome.charge for outcome in decision.outcomes] == [A, SEC, B]
    assert decision.allowed


@pytest.mark.parametrize(("spent", "other"), [(SEC, A), (A, SEC)])
async def test_refusal_by_one_store_consumes_nothing_in_the_other(spent: Charge, other: Charge) -> None:
    split = Split()
    await split.store.decide(ask(spent))
    assert not (await split.store.decide(ask(A, SEC))).allowed
    assert await split.left(other) == 1


async def test_mixed_request_is_charged_in_both_stores() -> None:
    split = Split()
    await split.store.decide(ask(A, SEC))
    assert [await split.left(charge) for charge in (A, SEC)] == [0, 0]


async def test_leases_and_settlements_go_where_they_belong() -> None:
    split = Split()
    reserved = Charge("t", Limit("t", 10, 1, Algorithm.FIXED_WINDOW), 8, reserve=True)
    await split.store.decide(Ask("r", (reserved,), (LeaseAsk("l", "l", 1, 1000),)))
    await split.store.settle([Settlement("r", (Charge("t", reserved.limit, 3),), ("l",))])
    assert await split.left(reserved) == 7
    assert (await split.others.peek(Ask("q", (), (LeaseAsk("l", "l", 1, 1000),)))).leases[0].in_use == 0
