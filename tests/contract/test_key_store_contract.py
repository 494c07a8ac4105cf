"""What every key store promises: one suite, run against a file and a real Redis."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gatehouse.contract.key_digest import digest_of
from gatehouse.keys.record import KeyRecord
from gatehouse.keys.store import Change, KeyStore
from gatehouse.keys.store_file import FileKeyStore
from gatehouse.keys.store_redis import RedisKeyStore
from gatehouse.redis_client.client import connect
from testkit.redis_server import RedisServer, redis_server

pytestmark = pytest.mark.asyncio

Open = Callable[[], KeyStore]

FULL = KeyRecord(
    digest="hmac-sha256:2026-11:" + "0f" * 32,
    key_id="Full0001",
    user="zoë",
    team="search",
    tier="premium",
    name="laptop",
    models=("llama-*", "gpt-?"),
    expires_at=1_798_761_599.999999,
    allowed_ips=("10.0.0.0/8", "2001:db8::/32"),
    limits='{"requests_per_minute":5,"shadow":true}',
    family="First001",
    created_at=1_767_268_800.25,
    created_by="root",
    revoked_at=1_767_268_801.5,
    revoked_because="leaked",
    cut=True,
)


def key(number: int, **changed: Any) -> KeyRecord:
    return replace(KeyRecord(digest_of(f"key-{number}"), f"key{number:05}", f"user{number}"), **changed)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest_asyncio.fixture(params=["file", "redis"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens the store: each call as another process would."""
    stores: list[KeyStore] = []
    if request.param == "redis":
        request.getfixturevalue("server").client().flushall()

    def another() -> KeyStore:
        if request.param == "file":
            stores.append(FileKeyStore(tmp_path / "keys.jsonl", patience_s=10))
        else:
            url = request.getfixturevalue("server").url
            stores.append(RedisKeyStore(connect(url, timeout_s=10, connect_timeout_s=10)))
        return stores[-1]

    yield another
    for store in stores:
        await store.close()


@pytest.fixture
def store(opened: Open) -> KeyStore:
    return opened()


class Follower:
    """What somebody knows who follows a store."""

    def __init__(self, store: KeyStore) -> None:
        self.changes: list[Change] = []
        self.known: dict[str, KeyRecord] = {}
        self._store = store
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async with aclosing(self._store.changes()) as changes:  # type: ignore[type-var]
            async for change in changes:
                self.changes.append(change)
                known = {} if change.complete else self.known
                known |= change.records  # type: ignore[arg-type]
                self.known = {digest: record for digest, record in known.items() if record is not None}

    async def until(self, told: Callable[[], bool], within_s: float = 10) -> None:
        async with asyncio.timeout(within_s):
            while not told():
                if self._task.done():
                    self._task.result()
                await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest_asyncio.fixture
async def follower(opened: Open) -> AsyncIterator[Follower]:
    """Somebody in another process, who has heard everything there is."""
    follower = Follower(opened())
    await follower.until(lambda: bool(follower.changes))
    yield follower
    await follower.stop()


async def test_a_store_begins_empty(store: KeyStore) -> None:
    assert (await store.all(), await store.last_used()) == ({}, {})


async def test_what_was_put_is_there_in_every_detail(store: KeyStore, opened: Open) -> None:
    await store.put([FULL, key(1)])
    assert await opened().all() == {FULL.digest: FULL, key(1).digest: key(1)}


async def test_a_record_takes_the_place_of_the_one_with_its_digest(store: KeyStore) -> None:
    await store.put([key(1), key(2)])
    await store.put([key(1, tier="premium", expires_at=5.0)])
    assert await store.all() == {
        key(1).digest: key(1, tier="premium", expires_at=5.0),
        key(2).digest: key(2),
    }


async def test_a_revoked_key_stays_revoked_whatever_is_put(store: KeyStore) -> None:
    revoked = key(1, revoked_at=7.0, revoked_because="leaked", cut=True)
    await store.put([revoked])
    await store.put([key(1, expires_at=9.0)])
    assert (await store.all())[revoked.digest] == replace(revoked, expires_at=9.0)


async def test_nothing_put_is_nothing_changed(store: KeyStore, follower: Follower) -> None:
    await store.put([])
    await store.put([key(1)])
    await follower.until(lambda: len(follower.changes) > 1)
    assert [list(change.records) for change in follower.changes] == [[], [key(1).digest]]


async def test_changes_made_at_once_are_all_kept(opened: Open) -> None:
    await asyncio.gather(*(opened().put([key(number)]) for number in range(20)))
    assert await opened().all() == {key(number).digest: key(number) for number in range(20)}


async def test_a_follower_hears_everything_first(store: KeyStore, opened: Open) -> None:
    await store.put([key(1), FULL])
    follower = Follower(opened())
    await follower.until(lambda: bool(follower.changes))
    assert follower.changes == [Change({key(1).digest: key(1), FULL.digest: FULL}, complete=True)]
    await follower.stop()


async def test_a_follower_hears_of_a_change_within_a_second(store: KeyStore, follower: Follower) -> None:
    await store.put([key(1)])
    await follower.until(lambda: key(1).digest in follower.known, within_s=1)
    await store.put([key(1, revoked_at=1.0), key(2)])
    await follower.until(lambda: len(follower.known) == 2, within_s=1)
    assert follower.known[key(1).digest].revoked_at == 1.0
    assert not any(change.complete for change in follower.changes[1:])


async def test_records_put_together_are_heard_of_together(store: KeyStore, follower: Follower) -> None:
    await store.put([key(number) for number in range(50)])
    await follower.until(lambda: len(follower.changes) > 1)
    assert len(follower.known) == 50


async def test_a_follower_of_many_changes_misses_none(store: KeyStore, follower: Follower) -> None:
    for number in range(100):
        await store.put([key(number % 10, created_at=float(number))])
    await follower.until(lambda: follower.known == {key(n).digest: key(n, created_at=90.0 + n) for n in range(10)})


async def test_thousands_put_at_once_reach_a_follower(store: KeyStore, follower: Follower) -> None:
    records = {key(number).digest: key(number) for number in range(3000)}
    await store.put(list(records.values()))
    await follower.until(lambda: follower.known == records)


async def test_followers_do_not_disturb_each_other(store: KeyStore, opened: Open) -> None:
    followers = [Follower(opened()) for _ in range(3)]
    for follower in followers:
        await follower.until(lambda follower=follower: bool(follower.changes))
    await followers[0].stop()
    await store.put([key(1)])
    for follower in followers[1:]:
        await follower.until(lambda follower=follower: key(1).digest in follower.known, within_s=1)
        await follower.stop()


async def test_last_use_is_noted_by_id(store: KeyStore, opened: Open) -> None:
    await store.used({"key00001": 1_767_268_800.5, "key00002": 2.0})
    await opened().used({"key00002": 3.0})
    await opened().used({})
    assert await opened().last_used() == {"key00001": 1_767_268_800.5, "key00002": 3.0}


async def test_a_use_is_no_change(store: KeyStore, follower: Follower) -> None:
    await store.used({"key00001": 1.0})
    await store.put([key(1)])
    await follower.until(lambda: len(follower.changes) > 1)
    assert len(follower.changes) == 2
    assert follower.known[key(1).digest].expires_at == math.inf
