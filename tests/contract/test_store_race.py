"""Many requests at the same time, over several clients, against one real Redis: exactly the limit gets through."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from gatehouse.redis_client.client import connect
from ratelimit_service.store.limits import Algorithm, Limit
from ratelimit_service.store.port import Ask, Charge, LeaseAsk, Settlement
from ratelimit_service.store.redis.store import RedisStore
from testkit.redis_server import RedisServer, redis_server

TASKS = 200
ADMITTED = 37

pytestmark = pytest.mark.asyncio


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest_asyncio.fixture
async def stores(server: RedisServer) -> AsyncIterator[list[RedisStore]]:
    server.client().flushall()
    stores = [RedisStore(connect(server.url, timeout_s=10)) for _ in range(5)]
    yield stores
    for store in stores:
        await store.close()


async def at_once(stores: list[RedisStore], asks: list[Ask]) -> int:
    """How many of these asks are admitted when all are made at the same time, spread over the stores."""
    decisions = await asyncio.gather(*(stores[i % len(stores)].decide(ask) for i, ask in enumerate(asks)))
    return sum(decision.allowed for decision in decisions)


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_exactly_the_limit_is_admitted(stores: list[RedisStore], algorithm: Algorithm) -> None:
    limit = Limit("requests_per_day", ADMITTED, 86_400, algorithm)
    asks = [Ask(f"r{i}", (Charge("{alice}", limit),)) for i in range(TASKS)]
    assert await at_once(stores, asks) == ADMITTED


async def test_exactly_so_many_leases_are_given(stores: list[RedisStore]) -> None:
    lease = LeaseAsk("{alice}", "concurrent_requests", ADMITTED, 60_000)
    assert await at_once(stores, [Ask(f"r{i}", (), (lease,)) for i in range(TASKS)]) == ADMITTED


async def test_refused_among_the_admitted_leave_no_trace(stores: list[RedisStore]) -> None:
    tight, wide = Limit("requests_per_day", ADMITTED, 86_400), Limit("tokens_per_day", 1_000_000, 86_400)
    lease = LeaseAsk("{alice}", "concurrent_requests", TASKS, 60_000)
    asks = [
        Ask(f"r{i}", (Charge("{alice}:requests", tight), Charge("{alice}:tokens", wide, 100, reserve=True)), (lease,))
        for i in range(TASKS)
    ]
    assert await at_once(stores, asks) == ADMITTED
    seen = await stores[0].peek(Ask("looking", (Charge("{alice}:tokens", wide, 0),), (lease,)))
    assert seen.outcomes[0].remaining == 1_000_000 - 100 * ADMITTED
    assert seen.leases[0].in_use == ADMITTED


async def test_settlements_repeated_from_all_sides_count_once(stores: list[RedisStore]) -> None:
    tokens = Limit("tokens_per_day", 1_000_000, 86_400)
    await at_once(stores, [Ask(f"r{i}", (Charge("{alice}", tokens, 500, reserve=True),)) for i in range(TASKS)])
    truth = [Settlement(f"r{i}", (Charge("{alice}", tokens, 7),)) for i in range(TASKS)]
    await asyncio.gather(*(store.settle(truth) for store in stores))
    seen = await stores[0].peek(Ask("looking", (Charge("{alice}", tokens, 0),)))
    assert seen.outcomes[0].remaining == 1_000_000 - 7 * TASKS
