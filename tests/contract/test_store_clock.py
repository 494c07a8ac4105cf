"""A clock that has stepped back by an hour: what was used stays used, and is whole again within a period."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from gatehouse.redis_client.client import connect
from ratelimit_service.store.limits import Algorithm, Limit
from ratelimit_service.store.memory import MemoryStore
from ratelimit_service.store.port import Ask, Charge, LeaseAsk, Store
from ratelimit_service.store.redis.store import RedisStore
from testkit.redis_server import RedisServer, redis_server

pytestmark = pytest.mark.asyncio

HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


class Clock:
    now = 1_790_000_000_123

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest, server: RedisServer, clock: Clock) -> AsyncIterator[Store]:
    server.client().flushall()
    made = (
        MemoryStore(clock) if request.param == "memory" else RedisStore(connect(server.url, timeout_s=5), clock=clock)
    )
    yield made
    await made.close()


def ask(limit: Limit, hits: int = 1) -> Ask:
    return Ask("r", (Charge("{alice}", limit, hits),))


@pytest.mark.parametrize("period_s", [1, 60, 3_600, 86_400])
@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_after_a_step_back_of_an_hour_nobody_waits_longer_than_the_period(
    store: Store, clock: Clock, algorithm: Algorithm, period_s: int
) -> None:
    limit = Limit("x", 5, period_s, algorithm)
    for _ in range(5):
        await store.decide(ask(limit))
    clock.now -= HOUR_MS
    refused = (await store.decide(ask(limit))).outcomes[0]
    assert not refused.allowed
    assert refused.remaining == 0
    assert refused.retry_after_ms is not None
    assert 0 < refused.retry_after_ms <= limit.period_ms
    assert refused.reset_after_ms <= limit.period_ms
    clock.now += refused.retry_after_ms
    assert (await store.decide(ask(limit))).allowed


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_a_step_back_gives_nothing_that_was_used(store: Store, clock: Clock, algorithm: Algorithm) -> None:
    limit = Limit("x", 5, 60, algorithm)
    await store.decide(ask(limit, 3))
    clock.now -= HOUR_MS
    assert [(await store.decide(ask(limit))).allowed for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_servers_that_differ_by_a_second_are_no_step(store: Store, clock: Clock, algorithm: Algorithm) -> None:
    limit = Limit("x", 5, 60, algorithm)
    await store.decide(ask(limit, 5))
    before = (await store.peek(ask(limit))).outcomes[0]
    clock.now -= 1_000
    after = (await store.peek(ask(limit))).outcomes[0]
    assert after.reset_after_ms == before.reset_after_ms + 1_000


def lease(request_id: str, ttl_ms: int = 30_000, *, shadow: bool = False) -> Ask:
    return Ask(request_id, (), (LeaseAsk("{alice}", "c", 1, ttl_ms, shadow),))


@pytest.mark.parametrize("shadow", [False, True])
async def test_a_lease_that_nobody_gives_back_ends_within_its_time_after_a_step_back(
    store: Store, clock: Clock, shadow: bool
) -> None:
    assert (await store.decide(lease("dead"))).leases[0].allowed
    clock.now -= HOUR_MS
    assert not (await store.decide(lease("next", shadow=shadow))).leases[0].allowed
    clock.now += 30_000
    assert (await store.peek(lease("last"))).leases[0].allowed


async def test_a_lease_whose_clock_did_not_step_keeps_its_time(store: Store, clock: Clock) -> None:
    assert (await store.decide(lease("first"))).allowed
    clock.now -= 1_000
    assert not (await store.decide(lease("next"))).allowed
    clock.now += 30_000
    assert not (await store.peek(lease("last"))).allowed
    clock.now += 1_000
    assert (await store.peek(lease("last"))).allowed
