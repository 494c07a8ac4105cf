"""What the Redis store promises beyond the port: round trips, memory, Redis's clock, and every way Redis can fail."""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
import redis

from gatehouse.redis_client.client import connect
from ratelimit_service.store.limits import Algorithm, Limit
from ratelimit_service.store.port import Ask, Charge, LeaseAsk, Settlement, StoreUnavailable
from ratelimit_service.store.redis.store import RedisStore
from testkit.ports import free_port
from testkit.redis_server import RedisServer, redis_sentinel, redis_server

MINUTE = Limit("requests_per_minute", 5, 60)
TOKENS = Limit("tokens_per_minute", 1_000, 60)

pytestmark = pytest.mark.asyncio


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest_asyncio.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisStore]:
    store = RedisStore(connect(server.url, timeout_s=5, connect_timeout_s=5))
    yield store
    await store.close()


def ask(request_id: str = "r1", limit: Limit = MINUTE) -> Ask:
    return Ask(request_id, (Charge("{u:alice}:requests", limit),))


def everything(request_id: str = "r1") -> Ask:
    """A request with a reservation and a lease beside its charge."""
    tokens = Charge("{u:alice}:tokens", TOKENS, 100, reserve=True)
    lease = LeaseAsk("{u:alice}", "concurrent_requests", 5, 1_000)
    return Ask(request_id, (*ask().charges, tokens), (lease,))


def settled(request_id: str = "r1") -> Settlement:
    return Settlement(request_id, (Charge("{u:alice}:tokens", TOKENS, 10),), ("{u:alice}",))


def dump(server: RedisServer) -> dict[bytes, Any]:
    """Everything that is in Redis, but for times to live."""
    client = server.client()
    return {key: client.dump(key) for key in client.keys("*")}


def reads_of(server: RedisServer) -> Iterator[int]:
    """How often Redis has read from a socket since the last time this was asked."""
    client, before = server.client(), 0
    while True:
        total = client.info("stats")["total_reads_processed"]
        yield total - before - 1  # the question itself
        before = total


async def failure(store: RedisStore, asked: Ask | None = None) -> str:
    with pytest.raises(StoreUnavailable) as caught:
        await store.decide(asked or ask())
    return caught.value.kind


async def test_redis_clock_decides(store: RedisStore, server: RedisServer) -> None:
    year = Limit("requests_per_year", 1, 31_536_000, Algorithm.FIXED_WINDOW)
    client = server.client()
    before = milliseconds(*client.time())
    outcome = (await store.decide(ask(limit=year))).outcomes[0]
    assert before <= year.period_ms - outcome.reset_after_ms <= milliseconds(*client.time())


def milliseconds(seconds: int, micros: int) -> int:
    """Since the year of the limit began."""
    return (seconds * 1_000 + micros // 1_000) % 31_536_000_000


async def test_asks_of_one_tick_share_a_round_trip(store: RedisStore, server: RedisServer) -> None:
    await asyncio.gather(store.decide(ask()), store.settle([settled()]))
    reads = reads_of(server)
    next(reads)
    await asyncio.gather(*(store.decide(ask(f"r{i}")) for i in range(20)), store.settle([settled()]))
    assert next(reads) == 1


async def test_batch_of_settlements_is_one_round_trip(store: RedisStore, server: RedisServer) -> None:
    await store.settle([settled()])
    reads = reads_of(server)
    next(reads)
    await store.settle([settled(f"r{i}") for i in range(20)])
    assert next(reads) == 1


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_request_window_costs_at_most_200_bytes(
    store: RedisStore, server: RedisServer, algorithm: Algorithm
) -> None:
    limit = Limit("requests_per_minute", 1_000, 60, algorithm)
    asks = [Ask("r1", (Charge(f"{{u:user-{i:05}}}:requests", limit, 9),)) for i in range(8_192)]
    client = server.client()
    await store.decide(ask())
    before = client.info("memory")["used_memory"]
    await asyncio.gather(*map(store.decide, asks))
    assert client.dbsize() == 1 + len(asks)
    assert (client.info("memory")["used_memory"] - before) / len(asks) <= 200


async def test_every_key_expires(store: RedisStore, server: RedisServer) -> None:
    for algorithm in Algorithm:
        await store.decide(ask(limit=Limit("x", 5, 60, algorithm)))
    await store.decide(everything("r1"))
    await store.decide(everything("r2"))
    await store.settle([settled("r2")])
    client = server.client()
    assert len(client.keys("*")) == 7
    assert all(client.pttl(key) > 0 for key in client.keys("*"))


async def test_count_that_is_given_back_leaves_no_key(store: RedisStore, server: RedisServer) -> None:
    tokens = Charge("{u:alice}:tokens", TOKENS, 100, reserve=True)
    await store.decide(Ask("r1", (tokens,)))
    await store.settle([Settlement("r1", (Charge("{u:alice}:tokens", TOKENS, 0),))])
    assert server.client().keys("*") == [b"gh:r:r1"]


async def test_keys_begin_with_the_prefix(server: RedisServer) -> None:
    store = RedisStore(connect(server.url, timeout_s=5, connect_timeout_s=5), prefix="mine:")
    await store.decide(everything())
    assert all(key.startswith(b"mine:") for key in server.client().keys("*"))
    await store.close()


async def test_refused_request_writes_nothing(store: RedisStore, server: RedisServer) -> None:
    for i in range(5):
        await store.decide(ask(f"r{i}"))
    before = dump(server)
    assert not (await store.decide(everything("r6"))).allowed
    assert dump(server) == before


async def test_scripts_that_redis_forgot_are_sent_again(store: RedisStore, server: RedisServer) -> None:
    await store.decide(ask())
    server.client().script_flush()
    decisions = await asyncio.gather(*(store.decide(ask(f"r{i}")) for i in range(6)))
    assert [decision.allowed for decision in decisions] == [True, True, True, True, False, False]


async def test_redis_without_memory_makes_no_partial_write(store: RedisStore, server: RedisServer) -> None:
    await store.decide(everything("r1"))
    before = dump(server)
    server.client().config_set("maxmemory", "1mb")
    assert await failure(store, everything("r2")) == "oom"
    with pytest.raises(StoreUnavailable, match="oom"):
        await store.settle([settled("r1")])
    assert dump(server) == before
    assert (await store.peek(everything("r2"))).allowed
    server.client().config_set("maxmemory", "0")
    assert (await store.decide(everything("r2"))).allowed


async def test_replica_that_cannot_write_is_readonly(store: RedisStore, server: RedisServer) -> None:
    with redis_server() as other:
        server.client().replicaof("127.0.0.1", other.port)
        assert await failure(store) == "readonly"


async def test_replica_is_left_for_whoever_is_the_master_by_then(store: RedisStore, server: RedisServer) -> None:
    """A sentinel is asked when a connection is made: on the old one, a master that became a replica stays one."""
    await store.decide(ask())
    with redis_server() as other:
        server.client().replicaof("127.0.0.1", other.port)
        assert await failure(store) == "readonly"
        client = server.client()
        client.replicaof("NO", "ONE")
        connections = client.info("stats")["total_connections_received"]
        assert (await store.decide(ask())).allowed
        assert client.info("stats")["total_connections_received"] == connections + 1


async def test_redis_whose_disk_fails_is_readonly(server: RedisServer) -> None:
    url = f"redis://127.0.0.1:{server.port}/0"
    client = redis.Redis.from_url(url)
    client.config_set("save", "3600 1000")
    shutil.rmtree(server.folder)
    client.bgsave()
    while client.info("persistence")["rdb_last_bgsave_status"] == "ok":
        await asyncio.sleep(0.01)
    store = RedisStore(connect(url, timeout_s=5, connect_timeout_s=5))
    assert await failure(store) == "readonly"
    await store.close()


async def test_redis_that_hangs_is_a_timeout_and_not_retried(server: RedisServer) -> None:
    store = RedisStore(connect(server.url, timeout_s=0.05, connect_timeout_s=0.05))
    await store.decide(ask())
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert await failure(store) == "timeout"
        assert time.monotonic() - began < 1
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    await store.close()


async def test_answer_that_comes_too_late_is_given_to_nobody(server: RedisServer) -> None:
    store = RedisStore(connect(server.url, timeout_s=0.05))
    await store.decide(ask())
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        assert await failure(store, ask("late")) == "timeout"
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    other = Limit("requests_per_hour", 50, 3_600)
    assert (await store.decide(ask("r2", other))).outcomes[0].remaining == 49
    await store.close()


async def test_no_redis_is_a_connection_failure() -> None:
    store = RedisStore(connect(f"redis://127.0.0.1:{free_port()}/0"))
    assert await failure(store) == "connection"
    await store.close()


async def test_connection_that_redis_closed_is_replaced(server: RedisServer) -> None:
    store = RedisStore(connect(server.url, timeout_s=5, connect_timeout_s=5))
    await store.decide(ask())
    server.client().client_kill_filter(_type="normal", skipme=True)
    assert (await store.decide(ask())).outcomes[0].remaining == 3
    await store.close()


async def test_foreign_value_under_a_key_of_ours_is_reported(store: RedisStore, server: RedisServer) -> None:
    server.client().set("gh:{u:alice}:l", "not a sorted set")
    assert await failure(store, everything()) == "other"


async def test_cancelled_caller_leaves_the_others_alone_and_is_not_charged(store: RedisStore) -> None:
    callers = [asyncio.create_task(store.decide(ask(f"r{i}"))) for i in range(3)]
    await asyncio.sleep(0)
    callers[1].cancel()
    decisions = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(decisions[1], asyncio.CancelledError)
    assert [decision.allowed for decision in (decisions[0], decisions[2])] == [True, True]  # type: ignore[union-attr]
    assert (await store.peek(ask())).outcomes[0].remaining == 3


async def test_sentinel_names_the_master(server: RedisServer) -> None:
    with redis_sentinel(server, "gatehouse") as sentinel:
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/gatehouse/0"
        store = RedisStore(connect(url, timeout_s=5, connect_timeout_s=5))
        assert (await store.decide(ask())).allowed
        assert server.client().dbsize() == 1
        await store.close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://redis:6379", "begins with one of redis://"),
        ("redis+sentinel://redis:26379", "names the master"),
        ("redis+cluster://redis:one", "host:port,host:port"),
    ],
)
async def test_url_of_another_kind_is_an_error(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        connect(url)
