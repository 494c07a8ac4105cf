"""Redis is killed, paused, full, read-only, loading or misconfigured: what a request, and the counts, see of it.

Real Redis, and the store as the service wires it. Limits are the fault table's: at most 15 ms added, back in 3 s; the
assertions leave some room for a machine that is busy with other things.
"""

import asyncio
import logging
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import redis

from gatehouse.redis_client.client import connect
from ratelimit_service.store.fallback import OnFailure, fallback
from ratelimit_service.store.limits import Algorithm, Limit
from ratelimit_service.store.port import Ask, Charge, Decision, LeaseAsk, Settlement, StoreUnavailable
from ratelimit_service.store.redis.checks import Finding, check
from ratelimit_service.store.redis.marker import RedisMarker
from ratelimit_service.store.redis.store import RedisStore
from ratelimit_service.store.resilient import TIMEOUT_S, Resilient
from ratelimit_service.store.seen import Seen
from testkit.ports import free_port
from testkit.redis_server import RedisServer, redis_cluster, redis_server
from testkit.store_counts import Counts
from testkit.waiting import until_async

pytestmark = [pytest.mark.alone, pytest.mark.asyncio]

RECOVERY_S = 3
ADDED_P99_S = 0.030
PATIENT_S = 5
"""The budget where Redis answers or refuses at once: a busy machine then causes no failure of its own."""
SHORT_S = 0.1
"""The budget where Redis is silent, and the test not about time."""

HOUR = Limit("requests_per_hour", 6, 3_600, Algorithm.FIXED_WINDOW)
TOKENS = Limit("tokens_per_hour", 1_000, 3_600, Algorithm.FIXED_WINDOW)
AOF = ("--appendonly", "yes", "--appendfsync", "always")  # everysec loses up to a second, and the tests are quicker


def redis_store(server: RedisServer, timeout_s: float = PATIENT_S) -> RedisStore:
    return RedisStore(connect(server.url, timeout_s=timeout_s, connect_timeout_s=max(timeout_s, 0.1)))


async def admit(server: RedisServer, *asks: Ask) -> None:
    """What another process has admitted before."""
    other = redis_store(server)
    assert all([(await other.decide(asked)).allowed for asked in asks])
    await other.close()


@asynccontextmanager
async def resilient(
    server: RedisServer, on_failure: OnFailure = "local", counts: Counts | None = None, timeout_s: float = PATIENT_S
) -> AsyncIterator[Resilient]:
    """The store over `server`, one of two that share its limits."""
    seen, shared_store = Seen(), redis_store(server)
    local = fallback(on_failure, 2, seen=seen)
    store = Resilient(
        shared_store, local, counts or Counts(), timeout_s=timeout_s, answers=lambda: shared_store.answers, seen=seen
    )
    try:
        yield store
    finally:
        await store.close()


@contextmanager
def paused(server: RedisServer) -> Iterator[None]:
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.process.pid, signal.SIGCONT)


@contextmanager
def restarted(server: RedisServer, *options: str) -> Iterator[None]:
    """The same server, killed before, with the same files, port and socket."""
    process = subprocess.Popen([*server.process.args, *options], stdout=subprocess.DEVNULL)  # type: ignore[misc] # a list
    try:
        yield
    finally:
        process.kill()
        process.wait()


def ask(request_id: str = "r") -> Ask:
    return Ask(request_id, (Charge("{u:alice}r", HOUR),))


def everything(request_id: str) -> Ask:
    """A request with a reservation and a lease beside its charge."""
    tokens = Charge("{u:alice}t", TOKENS, 100, reserve=True)
    return Ask(request_id, (*ask().charges, tokens), (LeaseAsk("{u:alice}c", "concurrent_requests", 1, 60_000),))


def settled(request_id: str, tokens: int) -> Settlement:
    return Settlement(request_id, (Charge("{u:alice}t", TOKENS, tokens),), ("{u:alice}c",))


async def remaining(store: Resilient, asked: Ask) -> list[int]:
    return [outcome.remaining for outcome in (await store.peek(asked)).outcomes]


async def admitted(store: Resilient, asks: int) -> int:
    return sum([(await store.decide(ask(f"r{i}"))).allowed for i in range(asks)])


async def recovery_s(store: Resilient) -> float:
    """How long it takes until Redis decides again."""
    began = time.monotonic()
    async with asyncio.timeout(5 * RECOVERY_S):
        while not await shared(store):
            await asyncio.sleep(0.01)
    return time.monotonic() - began


async def shared(store: Resilient) -> bool:
    try:
        return not (await store.peek(ask())).degraded
    except StoreUnavailable:
        return False


def dump(server: RedisServer) -> dict[bytes, Any]:
    """Everything that is in Redis, but for times to live."""
    client = server.client()
    return {key: client.dump(key) for key in client.keys("*")}


async def latencies_s(store: Resilient, for_s: float, every_s: float = 0.005) -> list[float]:
    """How long decisions take that are asked for at a steady rate, whether earlier ones have come or not."""
    durations: list[float] = []

    async def one(request_id: str) -> None:
        began = time.perf_counter()
        await store.decide(ask(request_id))
        durations.append(time.perf_counter() - began)

    async with asyncio.TaskGroup() as group:
        for i in range(int(for_s / every_s)):
            group.create_task(one(f"r{i}"))
            await asyncio.sleep(every_s)
    return sorted(durations)


async def test_f10_killed_redis_leaves_each_process_its_share_of_what_was_left() -> None:
    with redis_server(*AOF) as server:
        async with resilient(server) as store:
            assert await admitted(store, 4) == 4
            server.stop()
            assert await admitted(store, 10) == 1


async def test_f10_restarted_redis_is_shared_again_within_3_s_with_its_counts() -> None:
    with redis_server(*AOF) as server:
        async with resilient(server) as store:
            assert await admitted(store, 4) == 4
            server.stop()
            await admitted(store, 10)
            with restarted(server):
                assert await recovery_s(store) < RECOVERY_S
                assert await remaining(store, ask()) == [1], "and what was admitted meanwhile is charged"


async def test_f10_requests_that_end_while_redis_is_gone_are_settled_afterwards() -> None:
    with redis_server(*AOF) as server:
        async with resilient(server) as store:
            assert (await store.decide(everything("r1"))).allowed
            server.stop()
            assert (await store.decide(everything("r2"))).degraded
            await store.settle([settled("r1", 30), settled("r2", 7)])
            with restarted(server):
                assert await recovery_s(store) < RECOVERY_S
                await until_async(lambda: len(server.client().keys("gh:r:r[12]")) == 2)
                assert await remaining(store, everything("r3")) == [4, 1_000 - 30 - 7]
                assert (await store.decide(everything("r3"))).allowed  # the lease is free


async def test_f10_settlements_told_twice_count_once() -> None:
    with redis_server() as server:
        await admit(server, everything("r1"))
        async with resilient(server, timeout_s=SHORT_S) as store:
            with paused(server):
                await store.settle([settled("r1", 30)])
            assert await recovery_s(store) < RECOVERY_S
            await store.settle([settled("r1", 30)])
            await until_async(lambda: server.client().get("gh:r:r1") == b"")
            assert (await remaining(store, everything("r2")))[1] == 970


@pytest.mark.parametrize("on_failure", ["allow", "deny"])
async def test_f10_policy_decides_while_redis_is_gone_and_not_after(on_failure: OnFailure) -> None:
    with redis_server(*AOF) as server:
        async with resilient(server, on_failure) as store:
            await admitted(store, 6)
            server.stop()
            if on_failure == "allow":
                assert [await store.decide(ask()) for _ in range(9)] == [Decision(allowed=True, degraded=True)] * 9
            else:
                for _ in range(9):
                    with pytest.raises(StoreUnavailable, match="connection"):
                        await store.decide(ask())
            with restarted(server):
                assert await recovery_s(store) < RECOVERY_S
                assert not (await store.decide(ask())).allowed


async def test_f10_service_starts_without_redis_and_finds_it_later() -> None:
    with redis_server() as server:
        server.stop()
        async with resilient(server) as store:
            assert (await store.decide(ask())).degraded
            with restarted(server):
                await admitted(store, 3)
                assert await recovery_s(store) < RECOVERY_S


async def test_f10_redis_that_is_loading_counts_as_gone() -> None:
    with redis_server() as server:
        counts = Counts()
        async with resilient(server, counts=counts) as store:
            await store.decide(ask())
            server.client().mset({f"key-{i}": os.urandom(2_048) for i in range(60)})
            server.client().save()
            server.stop()
            slow = ("--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024")
            with restarted(server, *slow):
                await until_async(lambda: says_loading(server))
                assert (await store.decide(ask())).degraded
                assert counts.failures[-1] == "loading"
                await until_async(lambda: not says_loading(server))
                assert await recovery_s(store) < RECOVERY_S
                assert await remaining(store, ask()) == [4]


def says_loading(server: RedisServer) -> bool:
    try:
        server.client().get("x")
    except redis.BusyLoadingError:
        return True
    except redis.ConnectionError:
        pass
    return False


async def test_f10_demoted_redis_counts_as_gone_until_it_may_write() -> None:
    with redis_server() as server, redis_server() as other:
        counts = Counts()
        async with resilient(server, counts=counts) as store:
            server.client().replicaof("127.0.0.1", other.port)
            assert (await store.decide(ask())).degraded
            assert counts.failures == ["readonly"]
            server.client().replicaof("no", "one")
            assert await recovery_s(store) < RECOVERY_S


async def test_f10_outage_is_logged_once_at_each_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ratelimit_service")
    with redis_server() as server:
        async with resilient(server) as store:
            await store.decide(ask())
            server.stop()
            await admitted(store, 50)
            with restarted(server):
                await recovery_s(store)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


@pytest.mark.parametrize("pause_s", [3, pytest.param(30, marks=pytest.mark.slow)])
async def test_f11_paused_redis_costs_three_timeouts_and_then_little_and_is_shared_again_within_3_s(
    pause_s: float,
) -> None:
    with redis_server() as server:
        counts = Counts()
        async with resilient(server, counts=counts, timeout_s=TIMEOUT_S) as store:
            await latencies_s(store, for_s=0.2)
            connections = server.client().info("clients")["connected_clients"]
            tasks = len(asyncio.all_tasks())
            with paused(server):
                waited = await latencies_s(store, 5 * TIMEOUT_S)
                assert 2 * TIMEOUT_S < waited[-1] < 6 * TIMEOUT_S, "three, and some room for a busy machine"
                durations = await latencies_s(store, pause_s - 5 * TIMEOUT_S)
                assert len(asyncio.all_tasks()) <= tasks + len(waited) + 10, "one for each answer that is still due"
            assert await recovery_s(store) < RECOVERY_S
            assert durations[len(durations) * 99 // 100] < ADDED_P99_S
            assert counts.degraded >= len(durations)
            assert counts.failures.count("timeout") <= 3 + pause_s + 1, "and one for each probe"
            await until_async(lambda: server.client().info("clients")["connected_clients"] <= connections + 8)
            assert len(asyncio.all_tasks()) <= tasks + 10


async def test_what_a_paused_redis_was_asked_is_charged_once() -> None:
    """It does all of it when it goes on, whoever has decided meanwhile."""
    with redis_server() as server:
        async with resilient(server, timeout_s=SHORT_S) as store:
            await store.decide(everything("r0"))
            await store.settle([settled("r0", 0)])
            with paused(server):
                decisions = await asyncio.gather(*(store.decide(ask(f"r{i}")) for i in range(1, 10)))
                assert all(decision.degraded for decision in decisions)
                assert sum(decision.allowed for decision in decisions) == 3
            assert await recovery_s(store) < RECOVERY_S
            await until_async(lambda: told(store))
            assert await remaining(store, ask()) == [6 - 1 - 3]


async def test_leases_of_a_paused_redis_are_held_by_those_that_run() -> None:
    lease = LeaseAsk("{u:alice}c", "concurrent_requests", 4, 60_000)
    with redis_server() as server:
        async with resilient(server, timeout_s=SHORT_S) as store:
            await store.decide(ask("r0"))
            with paused(server):
                asks = [Ask(f"r{i}", (), (lease,)) for i in range(1, 5)]
                decisions = await asyncio.gather(*map(store.decide, asks))
                assert [decision.allowed for decision in decisions] == [True, True, False, False]
            assert await recovery_s(store) < RECOVERY_S
            await until_async(lambda: told(store))
            assert set(server.client().zrange("gh:{u:alice}c:l", 0, -1)) == {b"r1", b"r2"}


def told(store: Resilient) -> bool:
    """Whether Redis has been told everything, and has answered everything."""
    return not (store._late or store._admitted or store._backlog)


@pytest.mark.parametrize("on_failure", ["local", "allow", "deny"])
async def test_f11_policy_decides_during_a_pause(on_failure: OnFailure) -> None:
    with redis_server() as server:
        await admit(server, *[ask(f"other-{i}") for i in range(6)])
        async with resilient(server, on_failure, timeout_s=SHORT_S) as store:
            with paused(server):
                if on_failure == "deny":
                    with pytest.raises(StoreUnavailable):
                        await store.decide(ask())
                else:
                    assert await admitted(store, 9) == {"local": 3, "allow": 9}[on_failure]
            assert await recovery_s(store) < RECOVERY_S
            assert not (await store.peek(ask())).allowed


async def test_f11_request_that_gives_up_leaves_the_others_of_its_batch_alone() -> None:
    with redis_server() as server:
        shared_store = redis_store(server)
        hasty = Resilient(shared_store, None, Counts(), timeout_s=SHORT_S)
        await shared_store.decide(ask("r0"))
        with paused(server):
            patient = asyncio.create_task(shared_store.decide(ask("r1")))
            with pytest.raises(StoreUnavailable, match="timeout"):
                await hasty.decide(ask("r2"))
        assert (await patient).allowed
        await hasty.close()


async def test_redis_that_is_emptied_is_told_what_was_used() -> None:
    """FLUSHALL is noticed within seconds; a restart without a file before anything is decided."""
    with redis_server() as server:
        counts = Counts()
        async with marked(server, counts) as (store, marker):
            assert await admitted(store, 4) == 4
            server.client().flushall()
            assert await marker.forgotten()
            store.forgot()
            assert await recovery_s(store) < RECOVERY_S
            assert await remaining(store, ask()) == [2]
            server.stop()
            with restarted(server):
                assert await recovery_s(store) < RECOVERY_S
                assert await remaining(store, ask()) == [2]
            assert counts.restored == [1, 1]


async def test_service_that_starts_without_redis_and_finds_an_empty_one_tells_it_what_is_remembered() -> None:
    async def remembered() -> list[Charge]:
        return [Charge("{u:alice}r", HOUR, 5)]

    with redis_server() as server:
        server.stop()
        client = connect(server.url, timeout_s=PATIENT_S)
        store = Resilient(
            RedisStore(client), fallback("local", 2), Counts(), marker=RedisMarker(client), remembered=remembered
        )
        assert (await store.decide(ask("r1"))).degraded
        with restarted(server):
            assert await recovery_s(store) < RECOVERY_S
            assert await remaining(store, ask()) == [0], "five by the tally, and the one that was admitted meanwhile"
        await store.close()


async def test_several_processes_restore_as_much_as_was_used_and_no_more() -> None:
    with redis_server() as server:
        async with marked(server) as (one, _), marked(server) as (other, _):
            assert await admitted(one, 3) == 3
            assert (await other.decide(ask("o"))).allowed
            server.stop()
            await admitted(one, 0)
            with restarted(server):
                await asyncio.gather(*(store.decide(ask("x")) for store in (one, other)))
                assert await recovery_s(one) < RECOVERY_S
                assert await recovery_s(other) < RECOVERY_S
                left = await remaining(one, ask())
                assert left[0] <= 2
                assert left == await remaining(other, ask())


@asynccontextmanager
async def marked(server: RedisServer, counts: Counts | None = None) -> AsyncIterator[tuple[Resilient, RedisMarker]]:
    """As `resilient`, and it notices that Redis has forgotten."""
    client, seen = connect(server.url, timeout_s=PATIENT_S), Seen()
    marker = RedisMarker(client)
    await marker.renew()
    store = Resilient(RedisStore(client), fallback("local", 2, seen=seen), counts or Counts(), seen=seen, marker=marker)
    try:
        yield store, marker
    finally:
        await store.close()


async def test_f13_full_redis_writes_nothing_by_halves_and_alarms() -> None:
    with redis_server("--maxmemory-policy", "noeviction") as server:
        counts = Counts()
        async with resilient(server, counts=counts) as store:
            await store.decide(everything("r1"))
            before = dump(server)
            server.client().config_set("maxmemory", 1)
            decisions = [await store.decide(everything(f"r{i}")) for i in range(2, 9)]
            await store.settle([settled("r1", 10)])
            assert all(decision.degraded for decision in decisions)
            assert counts.failures == ["oom"]
            assert dump(server) == before


async def test_f13_full_redis_is_shared_again_within_3_s_of_being_freed() -> None:
    with redis_server("--maxmemory-policy", "noeviction") as server:
        async with resilient(server) as store:
            await store.decide(everything("r1"))
            server.client().config_set("maxmemory", 1)
            assert (await store.decide(everything("r2"))).degraded
            await store.settle([settled("r1", 10)])
            server.client().config_set("maxmemory", "0")
            assert await recovery_s(store) < RECOVERY_S
            await until_async(lambda: server.client().get("gh:r:r1") == b"")
            assert await remaining(store, everything("r3")) == [4, 990 - 100], (
                "and what was admitted meanwhile is charged"
            )


async def test_f13_alarm_repeats_while_redis_is_full() -> None:
    with redis_server("--maxmemory-policy", "noeviction") as server:
        counts = Counts()
        async with resilient(server, counts=counts) as store:
            server.client().config_set("maxmemory", 1)
            await store.decide(ask())
            await until_async(lambda: counts.failures.count("oom") >= 3)
            assert not await shared(store)


async def findings(url: str) -> list[Finding]:
    client = connect(url, timeout_s=5, connect_timeout_s=5)
    try:
        return await check(client)
    finally:
        await client.aclose()


async def test_f14_fit_redis_has_no_findings() -> None:
    with redis_server(*AOF) as server:
        assert await findings(server.url) == []


async def test_f14_redis_that_evicts_counters_is_a_warning() -> None:
    with redis_server(*AOF, "--maxmemory-policy", "allkeys-lru") as server:
        [finding] = await findings(server.url)
        assert finding.level == "warning"
        assert "allkeys-lru" in finding.message


async def test_f14_redis_that_forgets_gets_advice() -> None:
    with redis_server() as server:
        assert [finding.level for finding in await findings(server.url)] == ["advice"]


async def test_f14_managed_redis_that_forbids_config_is_checked_all_the_same() -> None:
    with redis_server(*AOF, "--maxmemory-policy", "volatile-lru", "--rename-command", "CONFIG", "") as server:
        assert [finding.level for finding in await findings(server.url)] == ["warning"]


async def test_f14_redis_that_may_not_be_asked_is_said_to_be_unchecked() -> None:
    with redis_server() as server:
        server.client().execute_command("ACL", "SETUSER", "limits", "on", ">secret", "~*", "+@all", "-info")
        [finding] = await findings(f"redis://limits:secret@127.0.0.1:{server.port}/0")
        assert finding.level == "warning"
        assert "INFO" in finding.message


async def test_f14_replica_is_an_error() -> None:
    with redis_server(*AOF) as server, redis_server() as other:
        server.client().replicaof("127.0.0.1", other.port)
        assert [finding.level for finding in await findings(server.url)] == ["error"]


async def test_f14_every_primary_of_a_cluster_is_checked() -> None:
    with redis_cluster() as servers:
        servers[0].client().config_set("appendonly", "yes")
        servers[0].client().config_set("maxmemory-policy", "allkeys-lru")
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
        levels = [finding.level for finding in await findings(f"redis+cluster://{hosts}")]
        assert sorted(levels) == ["advice", "warning"]  # of the second, and of the first


async def test_f14_redis_that_does_not_answer_is_unavailable() -> None:
    with pytest.raises(StoreUnavailable, match="connection"):
        await findings(f"redis://127.0.0.1:{free_port()}/0")
