"""An ask whose keys lie on several slots of a real Redis Cluster: all of it is charged, or nothing."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from gatehouse.redis_client.client import connect
from ratelimit_service.store.limits import Algorithm, Limit
from ratelimit_service.store.port import Ask, Charge, Decision, LeaseAsk, Renewal, Settlement, StoreUnavailable
from ratelimit_service.store.redis.store import RedisStore
from testkit.redis_server import RedisServer, redis_cluster

USER, TEAM, UNTAGGED = "{u:alice}:tokens", "{t:search}:tokens", "tier:free"  # three slots, on both nodes

pytestmark = pytest.mark.asyncio


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[RedisServer]]:
    with redis_cluster() as running:
        yield running


def store_on(nodes: list[RedisServer]) -> RedisStore:
    hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    return RedisStore(connect(f"redis+cluster://{hosts}", timeout_s=5, connect_timeout_s=5))


@pytest_asyncio.fixture
async def store(nodes: list[RedisServer]) -> AsyncIterator[RedisStore]:
    for node in nodes:
        node.client().flushall()
    store = store_on(nodes)
    yield store
    await store.close()


def limit(amount: int, algorithm: Algorithm = Algorithm.SLIDING_WINDOW) -> Limit:
    return Limit("tokens_per_day", amount, 86_400, algorithm)


def ask(request_id: str, *charges: Charge) -> Ask:
    leases = (
        LeaseAsk("{u:alice}", "concurrent_requests", 50, 60_000),
        LeaseAsk("{t:search}", "concurrent_requests", 50, 60_000),
    )
    return Ask(request_id, charges, leases)


def charges(hits: int, *amounts: int, algorithm: Algorithm = Algorithm.SLIDING_WINDOW) -> tuple[Charge, ...]:
    return tuple(
        Charge(key, limit(amount, algorithm), hits, reserve=True)
        for key, amount in zip((USER, TEAM, UNTAGGED), amounts, strict=True)
    )


async def remaining(store: RedisStore, *charged: Charge) -> list[int]:
    return [outcome.remaining for outcome in (await store.peek(Ask("looking", charged))).outcomes]


async def in_use(store: RedisStore) -> list[int]:
    return [lease.in_use for lease in (await store.peek(ask("looking"))).leases]


async def test_keys_of_the_test_lie_on_several_nodes(store: RedisStore, nodes: list[RedisServer]) -> None:
    await store.decide(ask("r1", *charges(1, 10, 10, 10)))
    assert all(node.client().dbsize() for node in nodes)


async def test_answers_stand_in_the_order_of_the_ask(store: RedisStore) -> None:
    asked = ask("r1", *charges(1, 10, 20, 30), Charge("{u:alice}:requests", limit(40)))
    decision = await store.decide(asked)
    assert [outcome.charge for outcome in decision.outcomes] == list(asked.charges)
    assert [outcome.remaining for outcome in decision.outcomes] == [9, 19, 29, 39]
    assert [lease.ask for lease in decision.leases] == list(asked.leases)


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_part_that_is_refused_takes_the_others_back(
    store: RedisStore, nodes: list[RedisServer], algorithm: Algorithm
) -> None:
    wide_but_one = charges(7, 100, 5, 100, algorithm=algorithm)
    decision = await store.decide(ask("r1", *wide_but_one))
    assert not decision.allowed
    assert [outcome.allowed for outcome in decision.outcomes] == [True, False, True]
    assert [outcome.remaining for outcome in decision.outcomes] == [100, 5, 100]
    assert await remaining(store, *wide_but_one) == [100, 5, 100]
    assert await in_use(store) == [0, 0]
    assert not [key for node in nodes for key in node.client().keys("*r:r1")]


async def test_settlement_corrects_every_slot(store: RedisStore) -> None:
    charged = charges(50, 100, 100, 100)
    await store.decide(ask("r1", *charged))
    truth = Settlement("r1", charges(10, 100, 100, 100), ("{u:alice}", "{t:search}"))
    await store.settle([truth, truth])
    assert await remaining(store, *charged) == [90, 90, 90]
    assert await in_use(store) == [0, 0]


async def test_heartbeats_reach_every_slot(store: RedisStore) -> None:
    await store.decide(ask("r1"))
    beats = [Renewal("r1", "{u:alice}", 1_000), Renewal("r1", "{t:search}", 1_000), Renewal("r2", "{t:search}", 1_000)]
    assert await store.renew(beats) == [True, True, False]


async def test_ask_without_limits_passes(store: RedisStore) -> None:
    assert await store.decide(Ask("r1", ())) == Decision(True)


async def test_exactly_the_limit_is_admitted_and_nothing_of_the_refused_stays(store: RedisStore) -> None:
    tight = charges(1, 1_000, 20, 1_000)
    decisions = await asyncio.gather(*(store.decide(ask(f"r{i}", *tight)) for i in range(200)))
    admitted = sum(decision.allowed for decision in decisions)
    assert admitted <= 20
    assert await remaining(store, *tight) == [1_000 - admitted, 20 - admitted, 1_000 - admitted]
    assert await in_use(store) == [admitted, admitted]


async def test_part_that_fails_takes_the_others_back(store: RedisStore, nodes: list[RedisServer]) -> None:
    charged = charges(7, 100, 100, 100)
    await store.decide(ask("r1", *charged))
    full = next(node for node in nodes if node.client().keys("*search*tokens*"))
    full.client().config_set("maxmemory", "1mb")
    with pytest.raises(StoreUnavailable, match="oom"):
        await store.decide(ask("r2", *charged))
    full.client().config_set("maxmemory", "0")
    assert await remaining(store, *charged) == [93, 93, 93]


async def test_replica_that_takes_over_is_found() -> None:
    with redis_cluster(replica_of_first=True) as (first, second, replica):
        store, charged = store_on([first, second, replica]), charges(7, 100, 100, 100)
        await store.decide(ask("r1", *charged))
        first.client().wait(1, 1_000)
        first.stop()
        with pytest.raises(StoreUnavailable, match=r"connection|clusterdown"):
            await store.decide(ask("r2", *charged))
        replica.client().execute_command("CLUSTER", "FAILOVER", "TAKEOVER")
        assert await patiently(store, ask("r3", *charged)) == 3
        await store.close()


async def patiently(store: RedisStore, asked: Ask) -> int:
    """How many of its charges an ask shows once the cluster answers again."""
    for _ in range(100):
        try:
            return len((await store.peek(asked)).outcomes)
        except StoreUnavailable:
            await asyncio.sleep(0.05)
    raise AssertionError("the store never found the new master")
