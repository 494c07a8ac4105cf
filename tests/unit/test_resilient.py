"""A store that fails, and requests that do not notice: budget, breaker, fallback and backlog, without Redis."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from ratelimit_service.store.breaker import Breaker
from ratelimit_service.store.expiring import Expiring
from ratelimit_service.store.fallback import OnFailure, fallback
from ratelimit_service.store.limits import Limit
from ratelimit_service.store.memory import MemoryStore
from ratelimit_service.store.port import (
    Ask,
    Charge,
    Decision,
    FailureKind,
    LeaseAsk,
    Renewal,
    Settlement,
    StoreUnavailable,
)
from ratelimit_service.store.resilient import Resilient
from ratelimit_service.store.seen import Seen
from testkit.store_counts import Counts

pytestmark = pytest.mark.asyncio

LIMIT = Limit("requests_per_minute", 4, 60)
TOKENS = Limit("tokens_per_minute", 1_000, 60)
PATIENCE_S = 10
TIMEOUT_S = 0.02


def clock() -> int:
    """Time stands still, so that equal counts are equal decisions."""
    return 1_000_000


class FaultyStore(MemoryStore):
    """A store in memory that fails as it is told: with `failure`, by silence, or at what `refuses`."""

    def __init__(self) -> None:
        super().__init__(clock)
        self.failure: FailureKind | None = None
        self.silent = False
        self.late_s = 0.0
        self.answering = asyncio.Event()
        self.answering.set()
        self.refuses = ""
        self.breaks_after_acting = 0  # so many times
        self.asked = 0
        self.settled: list[Settlement] = []
        self.renewed: list[Renewal] = []
        self.is_open = True

    async def decide(self, ask: Ask) -> Decision:
        await self._fail(ask.request_id)
        decision = await super().decide(ask)
        self._break()
        return decision

    async def peek(self, ask: Ask) -> Decision:
        await self._fail(ask.request_id)
        return await super().peek(ask)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        for settlement in settlements:
            await self._fail(settlement.request_id)
        self.settled += [s for s in settlements if s.request_id != "probe"]
        await super().settle(settlements)
        if settlements[0].request_id != "probe":
            self._break()

    async def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        await self._fail(renewals[0].request_id)
        self.renewed += renewals
        return await super().renew(renewals)

    async def close(self) -> None:
        self.is_open = False

    def forget(self) -> None:
        """As after FLUSHALL."""
        self._states = Expiring()

    def _break(self) -> None:
        if self.breaks_after_acting:
            self.breaks_after_acting -= 1
            raise StoreUnavailable("connection", "after it has acted")

    async def _fail(self, request_id: str) -> None:
        self.asked += 1
        if self.silent:
            await asyncio.Event().wait()
        if self.late_s:
            await asyncio.sleep(self.late_s)
        await self.answering.wait()
        if self.failure:
            raise StoreUnavailable(self.failure)
        if self.refuses == request_id:
            raise StoreUnavailable("other", "foreign value")


@pytest.fixture
def faulty() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
def counts() -> Counts:
    return Counts()


def resilient(faulty: FaultyStore, counts: Counts, on_failure: OnFailure = "local", backlog: int = 9) -> Resilient:
    """Two processes share; the breaker is so quick that no test has to wait."""
    breaker = Breaker(first_wait_s=0.001, longest_wait_s=0.001)
    seen = Seen(clock)
    local = fallback(on_failure, 2, clock, seen)
    return Resilient(faulty, local, counts, timeout_s=TIMEOUT_S, breaker=breaker, backlog=backlog, seen=seen)


@pytest_asyncio.fixture
async def store(faulty: FaultyStore, counts: Counts) -> AsyncIterator[Resilient]:
    store = resilient(faulty, counts)
    yield store
    await store.close()


def ask(request_id: str = "r1") -> Ask:
    return Ask(request_id, (Charge("{u:alice}r", LIMIT),))


def settlement(number: int = 1) -> Settlement:
    return Settlement(f"r{number}", (Charge("{u:alice}t", TOKENS, 10),), ("{u:alice}",))


async def recovered(store: Resilient) -> None:
    """Returns when the store decides again."""
    async with asyncio.timeout(PATIENCE_S):
        while (await store.peek(ask())).degraded:
            await asyncio.sleep(0.001)


async def told(store: Resilient) -> None:
    """Returns when the store has been told everything."""
    async with asyncio.timeout(PATIENCE_S):
        while store._admitted or store._backlog or store._late:
            await asyncio.sleep(0.001)


async def heard(faulty: FaultyStore, settlements: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(faulty.settled) < settlements:
            await asyncio.sleep(0.001)


async def test_store_that_works_decides(store: Resilient, faulty: FaultyStore, counts: Counts) -> None:
    decision = await store.decide(ask())
    assert decision == await faulty.peek(ask())
    assert not decision.degraded
    assert counts.degraded == 0


async def test_silence_is_given_up_at_the_third_timeout(store: Resilient, faulty: FaultyStore, counts: Counts) -> None:
    faulty.silent = True
    assert (await store.decide(ask())).degraded
    assert counts.failures == ["timeout"] * 3


async def test_late_is_not_gone(store: Resilient, faulty: FaultyStore, counts: Counts) -> None:
    """Each answer takes longer than a time-out, and there are many in a row."""
    faulty.late_s = 2 * TIMEOUT_S
    decisions = [await store.decide(ask(f"r{i}")) for i in range(5)]
    assert not any(decision.degraded for decision in decisions)
    assert [decision.allowed for decision in decisions] == [True] * 4 + [False]
    assert counts.degraded == 0


async def test_peek_is_degraded_as_well(store: Resilient, faulty: FaultyStore, counts: Counts) -> None:
    faulty.failure = "connection"
    decision = await store.peek(ask())
    assert decision.degraded
    assert decision.outcomes[0].remaining == 2
    assert counts.degraded == 1


@pytest.mark.parametrize("kind", ["oom", "readonly", "loading", "clusterdown", "connection"])
async def test_redis_that_says_it_cannot_is_believed_at_once(
    store: Resilient, faulty: FaultyStore, counts: Counts, kind: FailureKind
) -> None:
    faulty.failure = kind
    assert (await store.decide(ask("r1"))).degraded
    assert (await store.decide(ask("r2"))).degraded
    assert (faulty.asked, counts.failures, counts.degraded) == (1, [kind], 2)


@pytest.mark.parametrize("kind", ["timeout", "noscript", "other"])
async def test_what_may_be_an_accident_is_believed_at_the_third_time(
    store: Resilient, faulty: FaultyStore, counts: Counts, kind: FailureKind
) -> None:
    faulty.failure = kind
    for i in range(5):
        assert (await store.decide(ask(f"r{i}"))).degraded
    assert (faulty.asked, counts.failures, counts.degraded) == (3, [kind] * 3, 5)


async def test_requests_that_wait_together_are_given_up_together(
    store: Resilient, faulty: FaultyStore, counts: Counts
) -> None:
    faulty.silent = True
    decisions = await asyncio.gather(*(store.decide(ask(f"r{i}")) for i in range(20)))
    assert sum(decision.allowed for decision in decisions) == 2
    assert counts.failures == ["timeout"] * 3


async def test_local_policy_enforces_this_process_share(store: Resilient, faulty: FaultyStore) -> None:
    faulty.failure = "oom"
    assert [(await store.decide(ask(f"r{i}"))).allowed for i in range(3)] == [True, True, False]


async def test_allow_policy_admits_without_outcomes(faulty: FaultyStore, counts: Counts) -> None:
    store = resilient(faulty, counts, "allow")
    faulty.failure = "oom"
    assert [await store.decide(ask(f"r{i}")) for i in range(9)] == [Decision(allowed=True, degraded=True)] * 9
    await store.close()


async def test_deny_policy_raises_the_kind_of_the_failure(faulty: FaultyStore, counts: Counts) -> None:
    store = resilient(faulty, counts, "deny")
    faulty.failure = "oom"
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as caught:
            await store.decide(ask())
        assert caught.value.kind == "oom"
    assert (faulty.asked, counts.degraded) == (1, 2), "a refusal without the store is one decision more that it misses"
    await store.close()


async def test_store_that_is_back_decides_again_without_being_asked_by_requests(
    store: Resilient, faulty: FaultyStore
) -> None:
    faulty.failure = "oom"
    await store.decide(ask())
    faulty.failure = None
    await recovered(store)
    assert not (await store.decide(ask())).degraded


async def test_store_that_can_read_and_not_write_is_not_back(store: Resilient, faulty: FaultyStore) -> None:
    faulty.failure = "oom"
    await store.decide(ask())
    before = faulty.asked
    async with asyncio.timeout(PATIENCE_S):
        while faulty.asked < before + 3:  # probes
            await asyncio.sleep(0.001)
    assert (await store.peek(ask())).degraded


async def test_settlement_that_failed_is_told_again(store: Resilient, faulty: FaultyStore, counts: Counts) -> None:
    faulty.failure = "connection"
    await store.settle([settlement(1), settlement(2)])
    faulty.failure = None
    await heard(faulty, 2)
    assert faulty.settled == [settlement(1), settlement(2)]
    assert counts.lost == 0


async def test_settlements_of_an_open_breaker_are_told_when_it_closes(store: Resilient, faulty: FaultyStore) -> None:
    faulty.failure = "oom"
    await store.decide(ask())
    await store.settle([settlement()])
    assert faulty.settled == []
    faulty.failure = None
    await heard(faulty, 1)


async def test_backlog_longer_than_a_chunk_is_told_completely(faulty: FaultyStore, counts: Counts) -> None:
    store = resilient(faulty, counts, backlog=1_000)
    faulty.failure = "oom"
    await store.settle([settlement(i) for i in range(300)])
    faulty.failure = None
    await heard(faulty, 300)
    assert faulty.settled == [settlement(i) for i in range(300)]
    await store.close()


async def test_failed_settlement_gives_the_local_lease_back(store: Resilient, faulty: FaultyStore) -> None:
    faulty.failure = "oom"
    lease = LeaseAsk("{u:alice}", "concurrent_requests", 2, 60_000)
    assert (await store.decide(Ask("r1", (), (lease,)))).allowed
    assert not (await store.decide(Ask("r2", (), (lease,)))).allowed
    await store.settle([settlement(1)])
    assert (await store.decide(Ask("r3", (), (lease,)))).allowed


async def test_lease_counts_as_held_while_nobody_knows(store: Resilient, faulty: FaultyStore) -> None:
    renewals = [Renewal("r1", "{u:alice}", 60_000)]
    assert await store.renew(renewals) == [False]
    faulty.failure = "oom"
    assert await store.renew(renewals) == [True]
    assert faulty.renewed == renewals


async def test_sign_of_life_is_told_when_the_store_is_back(store: Resilient, faulty: FaultyStore) -> None:
    faulty.failure = "oom"
    await store.renew([Renewal("r1", "{u:alice}", 60_000)])
    await store.settle([settlement(1)])
    faulty.failure = None
    await heard(faulty, 1)
    assert faulty.renewed == [Renewal("r1", "{u:alice}", 60_000)]


async def test_sign_of_life_keeps_the_local_lease(faulty: FaultyStore, counts: Counts) -> None:
    now = 0
    store = Resilient(faulty, fallback("local", 2, lambda: now), counts)
    faulty.failure = "oom"
    lease = LeaseAsk("{u:alice}", "concurrent_requests", 2, 1_000)
    assert (await store.decide(Ask("r1", (), (lease,)))).allowed
    now = 900
    await store.renew([Renewal("r1", "{u:alice}", 1_000)])
    now = 1_500
    assert not (await store.decide(Ask("r2", (), (lease,)))).allowed
    await store.close()


async def test_full_backlog_counts_what_it_loses(store: Resilient, faulty: FaultyStore, counts: Counts) -> None:
    faulty.failure = "oom"
    await store.settle([settlement(i) for i in range(12)])
    assert counts.lost == 3
    faulty.failure = None
    await heard(faulty, 9)
    assert faulty.settled == [settlement(i) for i in range(3, 12)]


async def test_settlement_that_the_store_refuses_is_lost_alone(
    store: Resilient, faulty: FaultyStore, counts: Counts
) -> None:
    faulty.failure = "oom"
    await store.settle([settlement(1), settlement(2), settlement(3)])
    faulty.failure, faulty.refuses = None, "r2"
    await heard(faulty, 2)
    assert faulty.settled == [settlement(1), settlement(3)]
    assert counts.lost == 1


async def test_settle_waits_for_nobody_while_the_breaker_is_open(faulty: FaultyStore, counts: Counts) -> None:
    store = resilient(faulty, counts, "deny")
    faulty.failure = "oom"
    await store.settle([settlement(1)])
    faulty.silent = True
    settling = store.settle([settlement(2)])
    with pytest.raises(StopIteration):  # no step of it awaits anything
        settling.send(None)
    await store.close()


async def test_close_counts_what_was_never_told(faulty: FaultyStore, counts: Counts) -> None:
    store = resilient(faulty, counts)
    faulty.failure = "oom"
    await store.settle([settlement(1), settlement(2)])
    await store.close()
    assert counts.lost == 2
    assert not faulty.is_open


async def test_closed_store_is_not_probed(faulty: FaultyStore, counts: Counts) -> None:
    store = resilient(faulty, counts)
    faulty.failure = "oom"
    await store.decide(ask())
    await store.close()
    await asyncio.sleep(0.02)
    assert faulty.asked == 1


async def test_cancelled_request_is_no_failure(store: Resilient, faulty: FaultyStore, counts: Counts) -> None:
    faulty.silent = True
    request = asyncio.create_task(store.decide(ask()))
    await asyncio.sleep(0)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert counts.failures == []


async def test_outage_is_logged_once_at_each_end(
    store: Resilient, faulty: FaultyStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ratelimit_service")
    faulty.failure = "oom"
    for i in range(20):
        await store.decide(ask(f"r{i}"))
        await store.settle([settlement(i)])
    faulty.failure = None
    await recovered(store)
    assert [(record.levelname, "oom" in record.getMessage()) for record in caplog.records] == [
        ("ERROR", True),
        ("WARNING", False),
    ]


def lease(limit: int = 2) -> LeaseAsk:
    return LeaseAsk("{u:alice}", "concurrent_requests", limit, 60_000)


async def without_answers(store: Resilient, faulty: FaultyStore, asks: Sequence[Ask]) -> list[Decision]:
    """What is decided about `asks` while the store is silent; afterwards it does all that it was asked."""
    faulty.answering.clear()
    decisions = await asyncio.gather(*map(store.decide, asks))
    assert all(decision.degraded for decision in decisions)
    faulty.answering.set()
    await recovered(store)
    return list(decisions)


async def test_what_the_store_decided_late_is_not_charged_twice(store: Resilient, faulty: FaultyStore) -> None:
    [decision] = await without_answers(store, faulty, [ask("r1")])
    assert decision.allowed
    assert (await faulty.peek(ask())).outcomes[0].remaining == 3


async def test_what_the_store_admits_late_and_the_fallback_refused_is_given_back(
    store: Resilient, faulty: FaultyStore
) -> None:
    asks = [
        Ask(f"r{i}", (*ask().charges, Charge("{u:alice}t", TOKENS, 9, reserve=True)), (lease(9),)) for i in range(4)
    ]
    decisions = await without_answers(store, faulty, asks)
    assert [decision.allowed for decision in decisions] == [True, True, False, False]
    await told(store)
    seen = await faulty.peek(Ask("x", (*ask().charges, Charge("{u:alice}t", TOKENS, 0)), (lease(9),)))
    assert [outcome.remaining for outcome in seen.outcomes] == [2, 1_000 - 2 * 9]
    assert seen.leases[0].in_use == 2


async def test_what_was_admitted_without_the_store_is_charged_before_it_decides_again(
    store: Resilient, faulty: FaultyStore
) -> None:
    faulty.failure = "connection"
    assert [(await store.decide(ask(f"r{i}"))).allowed for i in range(3)] == [True, True, False]
    faulty.failure = None
    await recovered(store)
    decisions = [await store.decide(ask(f"s{i}")) for i in range(3)]
    assert [decision.allowed for decision in decisions] == [True, True, False]
    assert not any(decision.degraded for decision in decisions)


async def test_flapping_costs_one_share_once(store: Resilient, faulty: FaultyStore) -> None:
    admitted = 0
    for i in range(5):
        faulty.failure = "connection"
        admitted += sum([(await store.decide(ask(f"r{i}-{k}"))).allowed for k in range(3)])
        faulty.failure = None
        await recovered(store)
    assert admitted == 2
    assert (await faulty.peek(ask())).outcomes[0].remaining == 2


async def test_share_is_of_what_was_left(store: Resilient, faulty: FaultyStore) -> None:
    assert [(await store.decide(ask(f"r{i}"))).allowed for i in range(3)] == [True] * 3
    faulty.failure = "connection"
    assert [(await store.decide(ask(f"s{i}"))).allowed for i in range(2)] == [True, False]


async def test_spent_limit_stays_spent_without_the_store(store: Resilient, faulty: FaultyStore) -> None:
    for i in range(4):
        await store.decide(ask(f"r{i}"))
    faulty.failure = "connection"
    assert not (await store.decide(ask("s"))).allowed


async def test_lease_taken_in_the_fallback_is_given_back_when_the_end_is_told_to_the_store(
    store: Resilient, faulty: FaultyStore
) -> None:
    for i in range(5):
        faulty.failure = "connection"
        assert (await store.decide(Ask(f"r{i}", (), (lease(2),)))).allowed
        faulty.failure = None
        await recovered(store)
        await store.settle([Settlement(f"r{i}", (), ("{u:alice}",))])
    assert (await faulty.peek(Ask("x", (), (lease(2),)))).leases[0].in_use == 0


async def test_request_whose_caller_left_is_not_charged(store: Resilient, faulty: FaultyStore) -> None:
    faulty.answering.clear()
    request = asyncio.create_task(store.decide(Ask("r1", ask().charges, (lease(2),))))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    faulty.answering.set()
    await told(store)
    seen = await faulty.peek(Ask("x", ask().charges, (lease(2),)))
    assert (seen.outcomes[0].remaining, seen.leases[0].in_use) == (4, 0)


async def test_admission_is_told_once_however_often_the_telling_fails(store: Resilient, faulty: FaultyStore) -> None:
    faulty.failure = "connection"
    tokens = Charge("{u:alice}t", TOKENS, 100, reserve=True)
    assert (await store.decide(Ask("r1", (*ask().charges, tokens)))).allowed
    faulty.failure, faulty.breaks_after_acting = None, 2
    await recovered(store)
    await store.settle([Settlement("r1", (tokens._replace(hits=30),))])
    await told(store)
    seen = await faulty.peek(Ask("x", (*ask().charges, tokens._replace(hits=0))))
    assert [outcome.remaining for outcome in seen.outcomes] == [3, 970]


class Mark:
    """Says that the store has forgotten, once it has."""

    def __init__(self) -> None:
        self.lost = False

    async def forgotten(self) -> bool:
        return self.lost

    @asynccontextmanager
    async def restoring(self) -> AsyncIterator[None]:
        yield
        self.lost = False


async def test_store_that_comes_back_empty_is_told_what_was_used(counts: Counts) -> None:
    faulty, mark, seen = FaultyStore(), Mark(), Seen(clock)
    breaker = Breaker(first_wait_s=0.001, longest_wait_s=0.001)
    store = Resilient(faulty, fallback("local", 2, clock, seen), counts, breaker=breaker, seen=seen, marker=mark)
    for i in range(3):
        await store.decide(ask(f"r{i}"))
    faulty.forget()
    mark.lost = True
    store.forgot()
    assert [(await store.decide(ask(f"s{i}"))).allowed for i in range(2)] == [True, False]
    await recovered(store)
    assert not (await store.decide(ask("t"))).allowed
    assert counts.restored == [1]
    await store.close()
