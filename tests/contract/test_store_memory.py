"""What the memory store promises beyond the port: its memory is bounded by what still counts."""

import pytest

from ratelimit_service.store.limits import Limit
from ratelimit_service.store.memory import MemoryStore
from ratelimit_service.store.port import GRACE_MS, RESERVATION_TTL_MS, Ask, Charge, LeaseAsk, Settlement

SECOND = Limit("requests_per_second", 5, 1)

pytestmark = pytest.mark.asyncio


async def test_what_no_longer_counts_is_forgotten() -> None:
    now = 0
    store = MemoryStore(lambda: now)
    for i in range(20_000):
        now += GRACE_MS // 100
        await store.decide(Ask(f"r{i}", (Charge(f"user-{i}", SECOND),), (LeaseAsk(f"user-{i}", "c", 1, 1_000),)))
    assert len(store) < 3_000


async def test_reservations_that_are_never_settled_are_forgotten() -> None:
    now = 0
    store = MemoryStore(lambda: now)
    for i in range(10_000):
        now += RESERVATION_TTL_MS // 100
        await store.decide(Ask(f"r{i}", (Charge("user", SECOND, reserve=True),)))
    assert len(store) < 3_000


async def test_what_still_counts_is_kept_however_much_it_is() -> None:
    store = MemoryStore(lambda: 0)
    for i in range(5_000):
        await store.decide(Ask("r1", (Charge(f"user-{i}", SECOND, 5),)))
    assert not (await store.decide(Ask("r1", (Charge("user-0", SECOND),)))).allowed
    assert len(store) == 5_000


async def test_released_leases_leave_nothing_behind() -> None:
    store = MemoryStore(lambda: 0)
    await store.decide(Ask("r1", (), (LeaseAsk("user", "c", 1, 1_000),)))
    await store.settle([Settlement("r1", (), ("user",))])
    assert len(store) == 0
