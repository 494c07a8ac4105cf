"""What every store promises: one suite, run against the memory and a real Redis."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from gatehouse.redis_client.client import connect
from ratelimit_service.store.limits import MAX_AMOUNT, Algorithm, Limit
from ratelimit_service.store.memory import MemoryStore
from ratelimit_service.store.port import (
    SETTLED_TTL_MS,
    Ask,
    Charge,
    Decision,
    LeaseAsk,
    Renewal,
    Settlement,
    Store,
)
from ratelimit_service.store.redis.store import RedisStore
from testkit.redis_server import RedisServer, redis_server

MINUTE = 60_000
NOON = 1_767_268_800_000

pytestmark = pytest.mark.asyncio


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest_asyncio.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore(clock)
        return
    server: RedisServer = request.getfixturevalue("server")
    server.client().flushall()
    redis = RedisStore(connect(server.url, timeout_s=5, connect_timeout_s=5), clock=clock)
    yield redis
    await redis.close()


def requests(amount: int, algorithm: Algorithm = Algorithm.SLIDING_WINDOW, *, shadow: bool = False) -> Limit:
    return Limit("requests_per_minute", amount, 60, algorithm, shadow=shadow)


def ask(limit: Limit, hits: int = 1, key: str = "{alice}:requests", request_id: str = "r1") -> Ask:
    return Ask(request_id, (Charge(key, limit, hits),))


def estimate(hits: int, limit: Limit, request_id: str = "r1") -> Ask:
    return Ask(request_id, (Charge("{alice}:tokens", limit, hits, reserve=True),))


def truth(hits: int, limit: Limit, request_id: str = "r1") -> list[Settlement]:
    return [Settlement(request_id, (Charge("{alice}:tokens", limit, hits),))]


def late(hits: int, limit: Limit, request_id: str = "r1") -> list[Settlement]:
    """The same, from whom it may have come before."""
    return [settlement._replace(late=True) for settlement in truth(hits, limit, request_id)]


def leased(request_id: str, limit: int = 1, ttl_ms: int = 1_000, *, shadow: bool = False) -> Ask:
    return Ask(request_id, (), (LeaseAsk("{alice}", "concurrent_requests", limit, ttl_ms, shadow),))


async def left(store: Store, limit: Limit, key: str = "{alice}:tokens") -> int:
    return (await store.peek(Ask("looking", (Charge(key, limit, 0),)))).outcomes[0].remaining


async def running(store: Store) -> int:
    return (await store.peek(leased("looking", 99))).leases[0].in_use


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_admits_the_amount_and_not_one_more(store: Store, algorithm: Algorithm) -> None:
    decisions = [await store.decide(ask(requests(3, algorithm))) for _ in range(4)]
    assert [decision.allowed for decision in decisions] == [True, True, True, False]
    assert [decision.outcomes[0].remaining for decision in decisions] == [2, 1, 0, 0]


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_retry_after_is_exact(store: Store, clock: Clock, algorithm: Algorithm) -> None:
    clock.now += 12_345
    for _ in range(7):
        await store.decide(ask(requests(7, algorithm)))
    wait = (await store.decide(ask(requests(7, algorithm)))).outcomes[0].retry_after_ms
    assert wait is not None
    clock.now += wait - 1
    assert not (await store.decide(ask(requests(7, algorithm)))).allowed
    clock.now += 1
    assert (await store.decide(ask(requests(7, algorithm)))).allowed


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_whole_limit_is_back_after_reset(store: Store, clock: Clock, algorithm: Algorithm) -> None:
    clock.now += 30_000
    reset = (await store.decide(ask(requests(5, algorithm), 5))).outcomes[0].reset_after_ms
    clock.now += reset
    assert (await store.decide(ask(requests(5, algorithm), 5))).allowed


async def test_each_charge_has_its_own_answer(store: Store) -> None:
    minute, hour = requests(1), Limit("requests_per_hour", 5, 3_600)
    both = Ask("r1", (Charge("{alice}", minute), Charge("{alice}", hour)))
    await store.decide(both)
    decision = await store.decide(both)
    assert not decision.allowed
    assert [outcome.charge for outcome in decision.outcomes] == list(both.charges)
    assert [outcome.allowed for outcome in decision.outcomes] == [False, True]
    assert [outcome.remaining for outcome in decision.outcomes] == [0, 4]
    assert [outcome.retry_after_ms for outcome in decision.outcomes] == [MINUTE, 0]
    assert [outcome.reset_after_ms for outcome in decision.outcomes] == [MINUTE, 60 * MINUTE]


async def test_refused_request_consumes_nothing(store: Store) -> None:
    tight, wide = requests(1), Limit("requests_per_hour", 100, 3_600)
    shadow = Limit("requests_per_day", 100, 86_400, shadow=True)
    charges = tuple(Charge("{alice}", limit) for limit in (wide, tight, shadow))
    leases = (LeaseAsk("{alice}", "concurrent_requests", 9, 1_000),)
    await store.decide(Ask("r1", charges, leases))
    decision = await store.decide(Ask("r2", charges, leases))
    assert not decision.allowed
    assert [outcome.remaining for outcome in decision.outcomes] == [99, 0, 99]
    assert decision.leases[0].in_use == await running(store) == 1


async def test_request_without_a_free_lease_consumes_nothing(store: Store) -> None:
    charge = Charge("{alice}", requests(10), reserve=True)
    await store.decide(leased("r1"))
    decision = await store.decide(Ask("r2", (charge,), leased("r2").leases))
    assert (decision.allowed, decision.outcomes[0].allowed, decision.leases[0].allowed) == (False, True, False)
    assert decision.outcomes[0].remaining == await left(store, requests(10), "{alice}") == 10


async def test_ask_without_limits_passes(store: Store) -> None:
    assert await store.decide(Ask("r1", ())) == Decision(True)


async def test_shadow_limit_counts_and_never_refuses(store: Store) -> None:
    decisions = [await store.decide(ask(requests(1, shadow=True))) for _ in range(3)]
    assert [decision.allowed for decision in decisions] == [True, True, True]
    assert [decision.outcomes[0].allowed for decision in decisions] == [True, False, False]
    assert not (await store.decide(ask(requests(3)))).allowed


async def test_no_hits_check_without_charging(store: Store) -> None:
    assert [(await store.decide(ask(requests(1), 0))).allowed for _ in range(3)] == [True] * 3
    await store.decide(ask(requests(1)))
    assert not (await store.decide(ask(requests(1), 0))).allowed


async def test_more_hits_than_the_limit_never_pass(store: Store) -> None:
    outcome = (await store.decide(ask(requests(5), 6))).outcomes[0]
    assert (outcome.allowed, outcome.remaining, outcome.retry_after_ms) == (False, 5, None)


async def test_amount_of_nothing_refuses_everything(store: Store) -> None:
    assert not (await store.decide(ask(requests(0), 0))).allowed


async def test_charges_of_one_bucket_see_each_other(store: Store) -> None:
    pair = Ask("r1", (Charge("{alice}", requests(3), 2), Charge("{alice}", requests(3), 2)))
    assert [outcome.allowed for outcome in (await store.decide(pair)).outcomes] == [True, False]
    assert await left(store, requests(3), "{alice}") == 3
    fitting = Ask("r1", (Charge("{alice}", requests(3), 2), Charge("{alice}", requests(3), 1)))
    assert [outcome.remaining for outcome in (await store.decide(fitting)).outcomes] == [0, 0]


async def test_keys_periods_and_algorithms_count_apart(store: Store) -> None:
    await store.decide(ask(requests(1)))
    assert (await store.decide(ask(requests(1), key="{bob}:requests"))).allowed
    assert (await store.decide(ask(requests(1, Algorithm.FIXED_WINDOW)))).allowed
    assert (await store.decide(ask(Limit("requests_per_hour", 1, 3_600)))).allowed


async def test_another_amount_keeps_the_count(store: Store) -> None:
    await store.decide(ask(requests(5), 4))
    assert (await store.peek(ask(requests(10)))).outcomes[0].remaining == 6
    assert not (await store.decide(ask(requests(4)))).allowed


async def test_peek_answers_as_decide_and_consumes_nothing(store: Store) -> None:
    asked = Ask("r1", (Charge("{alice}", requests(2), 2, reserve=True),), leased("r1").leases)
    assert [(await store.peek(asked)).allowed for _ in range(3)] == [True] * 3
    await store.decide(asked)
    after = await store.peek(Ask("r2", asked.charges, asked.leases))
    assert (after.outcomes[0].allowed, after.leases[0].allowed, after.leases[0].in_use) == (False, False, 1)


async def test_step_back_of_the_clock_refills_nothing(store: Store, clock: Clock) -> None:
    for algorithm in Algorithm:
        await store.decide(ask(requests(1, algorithm)))
    clock.now -= 10 * MINUTE
    for algorithm in Algorithm:
        assert not (await store.decide(ask(requests(1, algorithm)))).allowed


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_largest_numbers_stay_exact(store: Store, algorithm: Algorithm) -> None:
    year = Limit("tokens_per_year", MAX_AMOUNT, 31_536_000, algorithm)
    await store.decide(ask(year, MAX_AMOUNT - 7))
    assert not (await store.decide(ask(year, 8))).allowed
    assert (await store.decide(ask(year, 7))).outcomes[0].remaining == 0


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_settlement_gives_back_what_was_not_used(store: Store, algorithm: Algorithm) -> None:
    tokens = requests(1_000, algorithm)
    await store.decide(estimate(800, tokens))
    await store.settle(truth(300, tokens))
    assert await left(store, tokens) == 700


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_settlement_charges_what_was_missing_even_above_the_limit(store: Store, algorithm: Algorithm) -> None:
    tokens = requests(1_000, algorithm)
    await store.decide(estimate(800, tokens))
    await store.settle(truth(1_500, tokens))
    refused = (await store.decide(estimate(1, tokens, "r2"))).outcomes[0]
    assert (refused.allowed, refused.remaining) == (False, 0)


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_second_settlement_changes_nothing(store: Store, clock: Clock, algorithm: Algorithm) -> None:
    tokens = Limit("tokens_per_day", 1_000_000, 86_400, algorithm)
    await store.decide(estimate(800, tokens))
    await store.settle(truth(300, tokens))
    clock.now += SETTLED_TTL_MS - 2_000
    before = await left(store, tokens)
    await store.settle(truth(300, tokens) + truth(900, tokens))
    assert await left(store, tokens) == before


async def test_settlement_of_one_request_twice_in_a_batch_counts_once(store: Store) -> None:
    await store.settle(truth(300, requests(1_000)) * 2)
    assert await left(store, requests(1_000)) == 700


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_request_that_was_never_admitted_is_charged_in_full_once(store: Store, algorithm: Algorithm) -> None:
    tokens = requests(1_000, algorithm)
    await store.settle(truth(300, tokens))
    await store.settle(truth(300, tokens))
    assert await left(store, tokens) == 700


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_late_word_of_what_was_settled_long_ago_changes_nothing(
    store: Store, clock: Clock, algorithm: Algorithm
) -> None:
    tokens = Limit("tokens_per_day", 1_000_000, 86_400, algorithm)
    await store.decide(estimate(800, tokens))
    await store.settle(truth(300, tokens))
    clock.now += SETTLED_TTL_MS + 2_000
    before = await left(store, tokens)
    await store.settle(late(300, tokens))
    assert await left(store, tokens) == before


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_late_word_takes_the_place_of_what_is_reserved_still(store: Store, algorithm: Algorithm) -> None:
    tokens = requests(1_000, algorithm)
    await store.decide(estimate(800, tokens))
    await store.settle(late(300, tokens) * 2)
    assert await left(store, tokens) == 700


async def test_batch_settles_every_request_in_it(store: Store) -> None:
    tokens = requests(1_000)
    for i in range(20):
        await store.decide(estimate(50, tokens, f"r{i}"))
    await store.settle([settlement for i in range(20) for settlement in truth(i, tokens, f"r{i}")])
    assert await left(store, tokens) == 1_000 - sum(range(20))


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_late_settlement_gives_nothing_back_to_a_later_window(
    store: Store, clock: Clock, algorithm: Algorithm
) -> None:
    tokens = requests(1_000, algorithm)
    await store.decide(estimate(800, tokens))
    clock.now += 3 * MINUTE
    await store.decide(estimate(600, tokens, "r2"))
    await store.settle(truth(100, tokens))
    assert await left(store, tokens) == 400


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_late_settlement_charges_what_was_missing_to_the_present(
    store: Store, clock: Clock, algorithm: Algorithm
) -> None:
    tokens = requests(1_000, algorithm)
    await store.decide(estimate(800, tokens))
    clock.now += 3 * MINUTE
    await store.settle(truth(900, tokens))
    assert await left(store, tokens) == 900


async def test_settlement_reaches_the_window_before_this_one(store: Store, clock: Clock) -> None:
    clock.now += 50_000
    await store.decide(estimate(1_000, requests(1_000)))
    clock.now += 20_000
    await store.settle(truth(100, requests(1_000)))
    assert await left(store, requests(1_000)) == 900


async def test_lost_settlement_leaves_the_reservation_charged_until_its_window_ends(store: Store, clock: Clock) -> None:
    await store.decide(estimate(800, requests(1_000)))
    clock.now += MINUTE - 1
    assert await left(store, requests(1_000)) == 200
    clock.now += 1
    assert await left(store, requests(1_000)) == 1_000


async def test_reservation_that_the_settlement_does_not_mention_stays(store: Store) -> None:
    tokens, requests_too = Charge("{alice}:tokens", requests(100), 50, True), Charge("{alice}", requests(100), 50, True)
    await store.decide(Ask("r1", (tokens, requests_too)))
    await store.settle(truth(0, requests(100)))
    assert (await left(store, requests(100)), await left(store, requests(100), "{alice}")) == (100, 50)


async def test_settlement_never_counts_below_zero(store: Store) -> None:
    await store.decide(estimate(800, requests(1_000)))
    await store.settle([*truth(0, requests(1_000)), Settlement("r2", (), ("{alice}",))])
    assert await left(store, requests(1_000)) == 1_000
    assert await running(store) == 0


async def test_leases_admit_that_many_at_the_same_time(store: Store) -> None:
    decisions = [await store.decide(leased(f"r{i}", limit=3)) for i in range(4)]
    assert [decision.allowed for decision in decisions] == [True, True, True, False]
    assert [decision.leases[0].in_use for decision in decisions] == [1, 2, 3, 3]


async def test_settlement_releases_the_lease(store: Store) -> None:
    await store.decide(leased("r1"))
    await store.settle([Settlement("r1", (), ("{alice}",))])
    assert (await store.decide(leased("r2"))).allowed


async def test_lapsed_lease_does_not_count(store: Store, clock: Clock) -> None:
    await store.decide(leased("r1"))
    clock.now += 999
    assert not (await store.decide(leased("r2"))).allowed
    clock.now += 1
    assert (await store.decide(leased("r2"))).allowed


async def test_heartbeat_keeps_the_lease(store: Store, clock: Clock) -> None:
    await store.decide(leased("r1"))
    clock.now += 999
    assert await store.renew([Renewal("r1", "{alice}", 1_000)]) == [True]
    clock.now += 999
    assert not (await store.decide(leased("r2"))).allowed
    clock.now += 1
    assert (await store.decide(leased("r2"))).allowed


async def test_heartbeat_never_shortens_a_lease(store: Store, clock: Clock) -> None:
    await store.decide(leased("r1", ttl_ms=5_000))
    await store.renew([Renewal("r1", "{alice}", 1_000)])
    clock.now += 4_999
    assert await running(store) == 1


async def test_heartbeat_revives_no_lease(store: Store, clock: Clock) -> None:
    await store.decide(leased("r1"))
    clock.now += 1_000
    assert await store.renew([Renewal("r1", "{alice}", 1_000), Renewal("r2", "{bob}", 1_000)]) == [False, False]
    assert await running(store) == 0


async def test_request_that_asks_again_keeps_its_one_lease(store: Store) -> None:
    for _ in range(3):
        assert (await store.decide(leased("r1"))).leases[0].in_use == 1


async def test_shadow_lease_counts_and_never_refuses(store: Store) -> None:
    decisions = [await store.decide(leased(f"r{i}", shadow=True)) for i in range(3)]
    assert [decision.allowed for decision in decisions] == [True, True, True]
    assert [decision.leases[0].allowed for decision in decisions] == [True, False, False]
    assert await running(store) == 3


@pytest.mark.parametrize("hits", [-1, MAX_AMOUNT + 1])
async def test_hits_out_of_range_are_an_error_that_names_the_charge(hits: int) -> None:
    with pytest.raises(ValueError, match=r"'\{alice\}:requests'"):
        ask(requests(1), hits)


async def test_empty_key_is_an_error() -> None:
    with pytest.raises(ValueError, match="'requests_per_minute' has an empty key"):
        ask(requests(1), key="")
    with pytest.raises(ValueError, match="'concurrent_requests' has an empty key"):
        LeaseAsk("", "concurrent_requests", 1, 1)


async def test_lease_out_of_range_is_an_error() -> None:
    with pytest.raises(ValueError, match="ttl 0 ms"):
        leased("r1", ttl_ms=0)


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_a_refund_makes_room_and_never_more_than_was_taken(store: Store, algorithm: Algorithm) -> None:
    limit = requests(5, algorithm)
    await store.decide(ask(limit, 4))
    await store.refund([Charge("{alice}:requests", limit, 3)])
    assert await left(store, limit, "{alice}:requests") == 4
    await store.refund([Charge("{alice}:requests", limit, 50)])
    assert await left(store, limit, "{alice}:requests") == 5


async def test_a_decision_that_comes_after_its_settlement_consumes_nothing(store: Store) -> None:
    limit = requests(100)
    await store.settle([Settlement("r1", (Charge("{alice}:tokens", limit, 7),), ("{alice}",))])
    late = Ask("r1", (Charge("{alice}:tokens", limit, 40, reserve=True),), leased("r1").leases)
    assert (await store.decide(late)).allowed
    assert await left(store, limit) == 93
    assert await running(store) == 0
