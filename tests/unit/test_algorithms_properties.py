"""What the algorithms promise, over random schedules of hits."""

from itertools import accumulate

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ratelimit_service.store.algorithms import EMPTY, State
from ratelimit_service.store.limits import MAX_AMOUNT, Algorithm, Limit

Hit = tuple[int, int]  # time, hits
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
amounts = st.one_of(st.integers(1, 12), st.integers(1, MAX_AMOUNT))


@st.composite
def limits(draw: st.DrawFn, *algorithms: Algorithm) -> Limit:
    algorithm = draw(st.sampled_from(algorithms or tuple(Algorithm)))
    burst = draw(st.none() | amounts) if algorithm is Algorithm.TOKEN_BUCKET else None
    return Limit("x", draw(amounts), draw(st.sampled_from([1, 2, 60, 3_600, 86_400, 31_536_000])), algorithm, burst)


@st.composite
def schedules(draw: st.DrawFn, limit: Limit) -> list[Hit]:
    """Hits at rising times: some at once, some milliseconds apart, some just around one or two periods later."""
    period = limit.period_ms
    edges = st.sampled_from([period - 1, period, period + 1, 2 * period - 1, 2 * period])
    gaps = st.one_of(st.just(0), st.integers(1, 5), st.integers(0, period), edges)
    hits = st.one_of(st.integers(1, 3), st.integers(1, limit.capacity))
    now, schedule = draw(st.integers(0, 2 * 10**12)), []
    for gap, some in draw(st.lists(st.tuples(gaps, hits), max_size=16)):
        now += gap
        schedule.append((now, some))
    return schedule


def admit(limit: Limit, schedule: list[Hit]) -> tuple[State, list[Hit]]:
    """Charge what passes. Gives the last state and the admitted hits."""
    state, admitted = EMPTY[limit.algorithm], []
    for now, hits in schedule:
        if state.wait(limit, hits, now) == 0:
            state = state.charge(limit, hits, now)
            admitted.append((now, hits))
    return state, admitted


def force(limit: Limit, schedule: list[Hit]) -> State:
    """Charge everything, as shadow limits and settlements do."""
    state = EMPTY[limit.algorithm]
    for now, hits in schedule:
        state = state.charge(limit, hits, now)
    return state


def stretches(admitted: list[Hit]) -> list[tuple[int, int, int]]:
    """Each stretch from one admitted hit to another: its begin, its length in milliseconds, and the hits in it."""
    return [
        (begin, end - begin + 1, total)
        for i, (begin, _) in enumerate(admitted)
        for (end, _), total in zip(admitted[i:], accumulate(hits for _, hits in admitted[i:]), strict=True)
    ]


@given(st.data(), limits())
@unhurried
def test_wait_is_exact_to_the_millisecond(data: st.DataObject, limit: Limit) -> None:
    schedule = data.draw(schedules(limit))
    state = data.draw(st.sampled_from([force(limit, schedule), admit(limit, schedule)[0]]))
    now = (schedule[-1][0] if schedule else 0) + data.draw(st.integers(0, 2 * limit.period_ms))
    hits = data.draw(st.integers(0, limit.capacity))
    wait = state.wait(limit, hits, now)
    assert wait is not None
    assume(wait < MAX_AMOUNT)
    assert state.wait(limit, hits, now + wait) == 0
    assert wait == 0 or state.wait(limit, hits, now + wait - 1) == 1


@given(st.data(), limits())
@unhurried
def test_remaining_is_the_most_that_passes(data: st.DataObject, limit: Limit) -> None:
    schedule = data.draw(schedules(limit))
    now = (schedule[-1][0] if schedule else 0) + data.draw(st.integers(0, 2 * limit.period_ms))
    state = admit(limit, schedule)[0]
    remaining = state.remaining(limit, now)
    assert remaining == 0 or state.wait(limit, remaining, now) == 0
    assert state.wait(limit, remaining + 1, now) != 0


@given(st.data(), limits())
@unhurried
def test_after_reset_the_whole_limit_is_free_and_not_before(data: st.DataObject, limit: Limit) -> None:
    schedule = data.draw(schedules(limit).filter(bool))
    state, now = force(limit, schedule), schedule[-1][0]
    reset = state.reset_after(limit, now)
    assume(reset < MAX_AMOUNT)
    assert state.remaining(limit, now + reset) == limit.capacity
    assert state.reset_after(limit, now + reset) == (
        limit.period_ms if limit.algorithm is Algorithm.FIXED_WINDOW else 0
    )
    assert state.remaining(limit, now + reset - 1) < limit.capacity


@given(st.data(), limits())
@unhurried
def test_more_becomes_free_as_time_passes(data: st.DataObject, limit: Limit) -> None:
    schedule = data.draw(schedules(limit).filter(bool))
    state, now = force(limit, schedule), schedule[-1][0]
    early, late = sorted(data.draw(st.tuples(*[st.integers(0, 3 * limit.period_ms)] * 2)))
    assert state.remaining(limit, now + early) <= state.remaining(limit, now + late)


@given(st.data(), limits())
@unhurried
def test_clock_that_steps_back_refills_nothing(data: st.DataObject, limit: Limit) -> None:
    schedule = data.draw(schedules(limit).filter(bool))
    state, now = force(limit, schedule), schedule[-1][0]
    before = data.draw(st.integers(max(0, now - 3 * limit.period_ms), now))
    assert state.remaining(limit, before) <= state.remaining(limit, now)
    assert state.charge(limit, 1, before).remaining(limit, now) == state.charge(limit, 1, now).remaining(limit, now)


@given(st.data(), limits(Algorithm.SLIDING_WINDOW))
@unhurried
def test_sliding_window_never_admits_two_limits_at_once(data: st.DataObject, limit: Limit) -> None:
    _, admitted = admit(limit, data.draw(schedules(limit)))
    for _, length, hits in stretches(admitted):
        if length <= limit.period_ms:
            assert hits <= limit.amount + limit.amount * length // limit.period_ms


@given(st.data(), limits(Algorithm.SLIDING_WINDOW))
@unhurried
def test_sliding_window_is_exact_but_for_the_spread_of_its_hits(data: st.DataObject, limit: Limit) -> None:
    _, admitted = admit(limit, data.draw(schedules(limit)))
    for begin, length, hits in stretches(admitted):
        window = [time for time, _ in admitted if time // limit.period_ms == begin // limit.period_ms]
        if length <= limit.period_ms - (window[-1] - window[0]):
            assert hits <= limit.amount


@given(st.data(), limits(Algorithm.SLIDING_WINDOW, Algorithm.FIXED_WINDOW))
@unhurried
def test_windows_admit_at_most_the_amount_each(data: st.DataObject, limit: Limit) -> None:
    _, admitted = admit(limit, data.draw(schedules(limit)))
    for begin, _ in admitted:
        index = begin // limit.period_ms
        assert sum(hits for time, hits in admitted if time // limit.period_ms == index) <= limit.amount


@given(st.data(), limits(Algorithm.SLIDING_WINDOW))
@unhurried
def test_one_period_of_silence_frees_a_sliding_window(data: st.DataObject, limit: Limit) -> None:
    schedule = data.draw(schedules(limit).filter(bool))
    assert force(limit, schedule).remaining(limit, schedule[-1][0] + limit.period_ms) == limit.amount


@given(st.data(), limits(Algorithm.TOKEN_BUCKET))
@unhurried
def test_token_bucket_admits_the_burst_and_its_rate(data: st.DataObject, limit: Limit) -> None:
    _, admitted = admit(limit, data.draw(schedules(limit)))
    for _, length, hits in stretches(admitted):
        assert hits <= limit.capacity + limit.amount * (length - 1) // limit.period_ms


@given(st.data(), limits())
@unhurried
def test_reservation_settled_at_once_counts_as_if_it_had_been_known(data: st.DataObject, limit: Limit) -> None:
    schedule = data.draw(schedules(limit).filter(bool))
    state, now = admit(limit, schedule)[0], schedule[-1][0]
    guess, true = data.draw(st.tuples(*[st.integers(1, limit.capacity)] * 2))
    assume(guess <= state.remaining(limit, now))
    reserved = state.charge(limit, guess, now)
    assume(reserved.reset_after(limit, now) < MAX_AMOUNT)
    settled = reserved.amend(limit, reserved.mark(limit, now), true - guess, now)
    assert settled.remaining(limit, now) == state.charge(limit, true, now).remaining(limit, now)


@given(st.data(), limits())
@unhurried
def test_settlement_never_gives_back_more_than_it_reserved(data: st.DataObject, limit: Limit) -> None:
    schedule = data.draw(schedules(limit).filter(bool))
    state, now = admit(limit, schedule)[0], schedule[-1][0]
    guess = data.draw(st.integers(1, limit.capacity))
    assume(sum(hits for _, hits in schedule) + guess <= MAX_AMOUNT)  # a counter that is full counts no further
    reserved = state.charge(limit, guess, now)
    later = now + data.draw(st.integers(0, 3 * limit.period_ms))
    settled = reserved.amend(limit, reserved.mark(limit, now), -guess, later)
    assert reserved.remaining(limit, later) <= settled.remaining(limit, later) <= state.remaining(limit, later)
