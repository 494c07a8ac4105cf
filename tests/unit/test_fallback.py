"""What decides while Redis is gone: shares of limits, or nobody."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.store.fallback import OnFailure, Share, Unlimited, fallback
from ratelimit_service.store.limits import Algorithm, Limit
from ratelimit_service.store.memory import MemoryStore, _born_ns
from ratelimit_service.store.port import Ask, Charge, Decision, LeaseAsk, Renewal, Settlement
from ratelimit_service.store.seen import Seen

REQUESTS = Limit("requests_per_minute", 10, 60)
TOKENS = Limit("tokens_per_minute", 1_000, 60)
HELD = LeaseAsk("{u:alice}", "concurrent_requests", 3, 15_000)


def share(sharers: int) -> Share:
    return Share(sharers, clock=lambda: 1_000_000)


def ask(request_id: str, *charges: Charge, lease: bool = False) -> Ask:
    return Ask(request_id, charges, (HELD,) if lease else ())


def one(limit: Limit = REQUESTS, hits: int = 1) -> Charge:
    return Charge("{u:alice}r", limit, hits)


def reserved(hits: int) -> Charge:
    return Charge("{u:alice}t", TOKENS, hits, reserve=True)


async def admitted(store: Share, asks: int, charge: Charge) -> int:
    return sum([(await store.decide(ask(f"r{i}", charge))).allowed for i in range(asks)])


limits = st.builds(
    Limit,
    st.just("x"),
    st.integers(1, 40),
    st.sampled_from([1, 60]),
    st.sampled_from([Algorithm.SLIDING_WINDOW, Algorithm.FIXED_WINDOW, Algorithm.TOKEN_BUCKET]),
)


@given(limits, st.integers(1, 8))
def test_all_sharers_together_admit_the_limit_rounded_up(limit: Limit, sharers: int) -> None:
    each = asyncio.run(admitted(share(sharers), limit.amount + 1, one(limit)))
    assert limit.amount <= each * sharers < limit.amount + sharers


def test_burst_is_shared_too() -> None:
    limit = Limit("x", 600, 60, Algorithm.TOKEN_BUCKET, burst=10)
    assert asyncio.run(admitted(share(4), 11, one(limit))) == 3


def test_limit_of_nothing_stays_nothing() -> None:
    assert asyncio.run(admitted(share(4), 1, one(Limit("x", 0, 60)))) == 0


@pytest.mark.asyncio
async def test_leases_are_shared_too() -> None:
    store = share(2)
    decisions = [await store.decide(ask(f"r{i}", lease=True)) for i in range(3)]
    assert [decision.allowed for decision in decisions] == [True, True, False]
    assert decisions[2].leases[0].ask == HELD


@pytest.mark.asyncio
async def test_lease_of_a_request_that_ended_is_given_back() -> None:
    store = share(3)
    await store.decide(ask("r1", lease=True))
    await store.settle([Settlement("r1", leases=(HELD.key,))])
    assert (await store.decide(ask("r2", lease=True))).allowed


@pytest.mark.asyncio
async def test_only_held_leases_are_renewed() -> None:
    store = share(3)
    await store.decide(ask("r1", lease=True))
    assert await store.renew([Renewal("r1", HELD.key, 1), Renewal("r2", HELD.key, 1)]) == [True, False]


@pytest.mark.asyncio
async def test_outcomes_name_the_limit_as_asked_and_what_this_process_will_still_admit() -> None:
    outcome = (await share(4).decide(ask("r1", one()))).outcomes[0]
    assert outcome.charge.limit.amount == 10
    assert outcome.remaining == 2


@pytest.mark.asyncio
async def test_peek_consumes_nothing() -> None:
    store = share(10)
    await store.peek(ask("r1", one()))
    assert (await store.decide(ask("r2", one()))).allowed


@pytest.mark.asyncio
async def test_charge_that_fits_the_limit_and_not_the_share_takes_the_whole_share() -> None:
    store = share(4)
    assert (await store.decide(ask("r1", reserved(900)))).allowed
    assert not (await store.decide(ask("r2", reserved(1)))).allowed


@pytest.mark.asyncio
async def test_charge_greater_than_the_limit_never_passes() -> None:
    decision = await share(4).decide(ask("r1", reserved(1_001)))
    assert not decision.allowed
    assert decision.outcomes[0].retry_after_ms is None


@pytest.mark.asyncio
async def test_true_counts_are_charged_in_full() -> None:
    store = share(4)
    await store.decide(ask("r1", reserved(200)))
    await store.settle([Settlement("r1", (reserved(50),))])
    assert (await store.peek(ask("r2", reserved(1)))).outcomes[0].remaining == 200


@pytest.mark.asyncio
@pytest.mark.parametrize("behind_ms", [0, 1, 40, 1_000, 20_000, -1, -1_000, -20_000])
@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_what_was_spent_stays_spent_though_the_clocks_of_the_two_differ(
    algorithm: Algorithm, behind_ms: int
) -> None:
    """`behind_ms`: our clock, to that of the store."""
    limit, now = Limit("x", 10, 3_600, algorithm), 1_790_000_000_000 + 1_800_000
    shared, seen = MemoryStore(lambda: now), Seen(lambda: now - behind_ms)
    seen.note(await shared.decide(ask("r1", one(limit, hits=10))))
    left = await admitted(Share(2, lambda: now - behind_ms, seen), 10, one(limit))
    assert left == 0


def test_a_clock_that_is_read_by_a_process_that_waits_for_a_cpu_is_right_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monotonic = iter([0, 50, *range(100, 130)])  # it was left waiting between the first two
    monkeypatch.setattr(time, "monotonic_ns", lambda: next(monotonic))
    monkeypatch.setattr(time, "time_ns", lambda: 1_000)
    assert 1_000 - _born_ns() >= 100


@pytest.mark.asyncio
async def test_unlimited_admits_everything_and_counts_nothing() -> None:
    store = Unlimited()
    nothing = ask("r1", one(Limit("x", 0, 60)), lease=True)
    assert await store.decide(nothing) == await store.peek(nothing) == Decision(allowed=True)
    assert await store.renew([Renewal("r1", HELD.key, 1)]) == [True]


@pytest.mark.parametrize(("on_failure", "kind"), [("local", Share), ("allow", Unlimited), ("deny", type(None))])
def test_policy_names_the_fallback(on_failure: OnFailure, kind: type) -> None:
    assert isinstance(fallback(on_failure, 2), kind)


def test_share_of_no_process_is_an_error() -> None:
    with pytest.raises(ValueError, match="includes this process"):
        fallback("local", 0)
