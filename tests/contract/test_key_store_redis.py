"""What the key store in Redis promises beyond the port: whatever happens to Redis, nobody follows a gap."""

import asyncio
import gc
import os
import signal
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from gatehouse.contract.key_digest import digest_of
from gatehouse.keys import store_redis
from gatehouse.keys.record import KeyRecord
from gatehouse.keys.record_json import to_json
from gatehouse.keys.store import Change, KeyStoreUnavailable
from gatehouse.keys.store_redis import CHANGES, RECORDS, RedisKeyStore
from gatehouse.redis_client.client import connect
from testkit.ports import free_port
from testkit.redis_server import RedisServer, redis_cluster, redis_sentinel, redis_server
from testkit.waiting import until_async
from tests.contract.test_key_store_contract import Follower, key

pytestmark = pytest.mark.asyncio


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


def opened(url: str, timeout_s: float = 10) -> RedisKeyStore:
    return RedisKeyStore(connect(url, timeout_s=timeout_s, connect_timeout_s=timeout_s))


@pytest_asyncio.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisKeyStore]:
    store = opened(server.url)
    yield store
    await store.close()


@pytest_asyncio.fixture
async def follower(server: RedisServer) -> AsyncIterator[Follower]:
    followed = opened(server.url)
    follower = Follower(followed)
    await follower.until(lambda: bool(follower.changes))
    yield follower
    await follower.stop()
    await followed.close()


async def test_what_stands_in_redis_is_what_the_module_says(store: RedisKeyStore, server: RedisServer) -> None:
    await store.put([key(1)])
    await store.used({"key00001": 5.0})
    client = server.client()
    assert sorted(client.keys("*")) == [b"gh:{keys}:changes", b"gh:{keys}:records", b"gh:{keys}:used"]
    assert client.hgetall(RECORDS) == {key(1).digest.encode(): to_json(key(1)).encode()}
    assert [entry for _, entry in client.xrange(CHANGES)] == [client.hgetall(RECORDS)]


async def test_a_change_is_heard_of_at_once(store: RedisKeyStore, follower: Follower) -> None:
    for number in range(5):
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await store.put([key(number)])
        await follower.until(lambda number=number: key(number).digest in follower.known)
        assert time.monotonic() - began < 0.2


async def test_a_stream_that_was_trimmed_is_read_from_the_records(
    store: RedisKeyStore, follower: Follower, server: RedisServer
) -> None:
    await store.put([key(1)])
    await follower.until(lambda: key(1).digest in follower.known)
    with server.client().pipeline(transaction=True) as pipe:
        pipe.hset(RECORDS, key(2).digest, to_json(key(2)))
        pipe.xadd(CHANGES, {key(2).digest: to_json(key(2))})
        pipe.hset(RECORDS, key(3).digest, to_json(key(3)))
        pipe.xadd(CHANGES, {key(3).digest: to_json(key(3))}, maxlen=1, approximate=False)
        pipe.execute()
    await follower.until(lambda: len(follower.known) == 3)
    assert follower.changes[-1].complete


async def test_the_stream_stays_short(
    store: RedisKeyStore, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_redis, "KEPT_CHANGES", 100)
    for number in range(500):
        await store.put([key(number % 5)])
    assert server.client().xlen(CHANGES) <= 200


async def test_a_stream_that_is_gone_is_read_from_the_records(
    store: RedisKeyStore, follower: Follower, server: RedisServer
) -> None:
    await store.put([key(1)])
    await follower.until(lambda: key(1).digest in follower.known)
    server.client().delete(CHANGES)
    await follower.until(lambda: follower.changes[-1].complete and len(follower.changes) == 3)
    await store.put([key(2)])
    await follower.until(lambda: key(2).digest in follower.known, within_s=1)


async def test_a_redis_that_was_emptied_has_no_keys(
    store: RedisKeyStore, follower: Follower, server: RedisServer
) -> None:
    await store.put([key(1)])
    await follower.until(lambda: key(1).digest in follower.known)
    server.client().flushall()
    await follower.until(lambda: follower.known == {}, within_s=3)


@pytest.mark.parametrize("lost", [1, 3])
async def test_a_fail_over_that_takes_changes_back_is_noticed(
    store: RedisKeyStore, follower: Follower, server: RedisServer, lost: int
) -> None:
    """The new primary misses the last changes and has as many others instead."""
    await store.put([key(1)])
    client = server.client()
    saved = {name: client.dump(name) for name in (RECORDS, CHANGES)}
    for number in range(lost):
        await store.put([key(10 + number)])
    await follower.until(lambda: len(follower.known) == 1 + lost)
    with client.pipeline(transaction=True) as pipe:
        for name, value in saved.items():
            pipe.restore(name, 0, value, replace=True)
        for number in range(lost):
            pipe.hset(RECORDS, key(20 + number).digest, to_json(key(20 + number)))
            pipe.xadd(CHANGES, {key(20 + number).digest: to_json(key(20 + number))})
        pipe.execute()
    expected = {key(1).digest, *(key(20 + number).digest for number in range(lost))}
    await follower.until(lambda: set(follower.known) == expected, within_s=3)


async def test_a_follower_whose_redis_is_restarted_is_told_and_then_hears_everything(tmp_path: Any) -> None:
    port = free_port()
    options = ["--appendonly", "yes", "--appendfsync", "always", "--appenddirname", "aof", "--port", str(port)]
    url = f"redis://127.0.0.1:{port}/0"
    with redis_server(*options, "--dir", str(tmp_path)) as first:
        store = opened(url, timeout_s=2.5)
        await store.put([key(1)])
        changes = store.changes()
        assert (await anext(changes)).complete
        first.stop()
        with pytest.raises(KeyStoreUnavailable, match="Redis does not keep keys now"):
            await anext(changes)
    with redis_server(*options, "--dir", str(tmp_path)):
        assert await anext(store.changes()) == Change({key(1).digest: key(1)}, complete=True)
    await store.close()


async def test_a_replica_that_takes_over_goes_on_where_the_primary_was(server: RedisServer) -> None:
    with redis_server() as replica, redis_sentinel(server, "gatehouse") as sentinel:
        replica.client().replicaof("127.0.0.1", server.port)
        store = opened(f"redis+sentinel://127.0.0.1:{sentinel.port}/gatehouse/0")
        await store.put([key(1)])
        await until_async(lambda: replica.client().hlen(RECORDS), 20)
        info = server.client().xinfo_stream(CHANGES)
        copy = replica.client().xinfo_stream(CHANGES)
        counters = ("entries-added", "last-generated-id")
        assert [copy[name] for name in counters] == [info[name] for name in counters]
        await store.close()


async def test_a_record_that_cannot_be_read_lets_nobody_in(
    store: RedisKeyStore, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    await store.put([key(1)])
    client = server.client()
    client.hset(RECORDS, key(2).digest, '{"canary": 4711}')
    client.hset(RECORDS, key(3).digest, to_json(key(1)))
    records = await store.all()
    assert records[key(1).digest] == key(1)
    assert [records[key(number).digest].revoked_at for number in (2, 3)] == [0.0, 0.0]
    assert "4711" not in caplog.text
    assert "can't be read, so the key is refused" in caplog.text


FAULTS = [
    (["--requirepass", "canary-password"], "put user and password into redis.url"),
    (["--maxmemory", "1mb"], "give it more memory"),
    (["--min-replicas-to-write", "1"], "see the log of Redis"),
]


@pytest.mark.parametrize(("options", "fix"), FAULTS)
async def test_what_redis_refuses_comes_with_the_fix_and_changes_nothing(options: list[str], fix: str) -> None:
    password = "canary-password" if "--requirepass" in options else None
    with redis_server() as server:
        store = opened(server.url)
        await store.put([key(1)])
        client = server.client()
        client.config_set(options[0].lstrip("-"), options[1])
        await store.close()
        store = opened(server.url)
        with pytest.raises(KeyStoreUnavailable, match=fix) as caught:
            await store.put([key(2)])
        assert "canary" not in str(caught.value)
        if password:
            client.execute_command("AUTH", password)
        assert client.hlen(RECORDS) == client.xlen(CHANGES) == 1
        await store.close()


async def test_a_replica_says_where_the_primary_is_to_be_named(server: RedisServer) -> None:
    with redis_server() as other:
        server.client().replicaof("127.0.0.1", other.port)
        store = opened(server.url)
        with pytest.raises(KeyStoreUnavailable, match=r"let redis\.url name the primary"):
            await store.put([key(1)])
        await store.close()


async def test_a_redis_that_hangs_is_unavailable_in_time(server: RedisServer) -> None:
    store = opened(server.url, timeout_s=0.3)
    await store.put([key(1)])
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        for asked in (store.all(), store.put([key(2)]), store.used({"a": 1.0}), store.last_used()):
            began = time.monotonic()
            with pytest.raises(KeyStoreUnavailable):
                await asked
            assert time.monotonic() - began < 2
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    await store.close()


async def test_no_redis_is_unavailable() -> None:
    store = opened(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(KeyStoreUnavailable, match=r"check redis\.url and that Redis runs"):
        await store.all()
    with pytest.raises(KeyStoreUnavailable):
        await anext(store.changes())
    await store.close()


async def test_a_cluster_keeps_keys_and_tells_of_changes() -> None:
    with redis_cluster() as servers:
        url = f"redis+cluster://127.0.0.1:{servers[0].port}"
        store, followed = opened(url), opened(url)
        follower = Follower(followed)
        await follower.until(lambda: bool(follower.changes))
        await store.put([key(1), key(2)])
        await follower.until(lambda: len(follower.known) == 2, within_s=1)
        await store.put([key(1, revoked_at=1.0)])
        await store.put([key(1)])
        await follower.until(lambda: follower.known[key(1).digest].revoked_at == 1.0, within_s=1)
        await store.used({"key00001": 1.0})
        assert (await store.last_used(), len(await store.all())) == ({"key00001": 1.0}, 2)
        await follower.stop()
        await followed.close()
        await store.close()


def many() -> list[KeyRecord]:
    """100,000 keys as a company has them."""
    tiers = ("premium", "standard", "free")
    full: dict[str, Any] = {"models": ("llama-*",), "created_at": 1_767_268_800.25, "created_by": "root"}
    return [
        KeyRecord(digest_of(f"k{n}"), f"k{n:07}", f"user{n % 20_000}", f"team{n % 200}", tiers[n % 3], **full)
        for n in range(100_000)
    ]


@pytest.mark.slow
async def test_100_000_keys_are_kept_loaded_and_followed(store: RedisKeyStore, server: RedisServer) -> None:
    keys = many()
    await store.put(keys)
    other = opened(server.url)
    loaded = await other.all()
    assert len(loaded) == 100_000
    assert loaded[keys[-1].digest] == keys[-1]
    follower = Follower(other)
    await follower.until(lambda: bool(follower.changes))
    began = time.monotonic()
    await store.put([replace(keys[5], revoked_at=1.0)])
    await follower.until(lambda: follower.known[keys[5].digest].revoked_at == 1.0)
    assert time.monotonic() - began < 1
    await follower.stop()
    await other.close()


@pytest.mark.slow
async def test_100_000_keys_take_little_memory(store: RedisKeyStore) -> None:
    await store.put(many())
    gc.collect()
    tracemalloc.start()
    loaded = await store.all()
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(loaded) == 100_000
    assert held < 60 * 1024 * 1024
