"""When the circuit breaker opens and closes, and how long it waits."""

from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.store.breaker import Breaker


def opened(at: float = 0.0) -> Breaker:
    breaker = Breaker()
    breaker.failed(at, at, hard=True)
    return breaker


def test_opens_at_the_third_failure_in_a_row() -> None:
    breaker = Breaker(failures=3)
    assert [breaker.failed(now, now) for now in (0, 1, 2)] == [False, False, True]
    assert not breaker.closed


def test_one_hard_failure_opens() -> None:
    breaker = Breaker(failures=3)
    assert breaker.failed(0, 0, hard=True)
    assert not breaker.closed


def test_success_in_between_starts_the_count_again() -> None:
    breaker = Breaker(failures=2)
    breaker.failed(0, 1)
    assert not breaker.succeeded(2, 3)
    assert not breaker.failed(4, 5)
    assert breaker.closed


def test_calls_that_overlap_count_as_one_failure() -> None:
    breaker = Breaker(failures=2)
    assert not any(breaker.failed(0, 0.010 + i / 1000) for i in range(100))
    assert breaker.closed


def test_success_that_began_before_the_failure_does_not_excuse_it() -> None:
    breaker = Breaker(failures=2)
    breaker.failed(0, 5)
    breaker.succeeded(4, 6)
    assert breaker.failed(7, 8)


def test_successful_probe_closes() -> None:
    breaker = opened(at=0)
    assert breaker.succeeded(1, 1.01)
    assert breaker.closed


def test_straggler_from_before_the_failure_does_not_close() -> None:
    breaker = opened(at=1)
    assert not breaker.succeeded(0.9, 1.1)
    assert not breaker.closed


def test_straggler_from_before_the_failure_does_not_lengthen_the_wait() -> None:
    breaker = opened(at=1)
    breaker.failed(0.9, 1.1)
    assert breaker.wait_s == 0.25


def test_wait_doubles_with_each_failed_probe_up_to_its_bound() -> None:
    breaker, waits, now = opened(at=0), [], 0.0
    for _ in range(5):
        waits.append(breaker.wait_s)
        now += breaker.wait_s
        assert not breaker.failed(now, now)
    assert waits == [0.25, 0.5, 1, 1, 1]


def test_wait_is_short_again_after_a_quiet_time() -> None:
    breaker = opened(at=0)
    breaker.failed(1, 1)
    breaker.succeeded(2, 2)
    breaker.failed(10, 10, hard=True)
    assert breaker.wait_s == 0.25


def test_store_that_flaps_is_asked_no_more_often_than_one_that_is_gone() -> None:
    breaker, now = opened(at=0), 0.0
    for _ in range(3):
        now += breaker.wait_s
        assert breaker.succeeded(now, now)
        now += 0.03
        assert breaker.failed(now, now, hard=True)
    assert breaker.wait_s == 1


calls = st.tuples(st.booleans(), st.booleans(), st.floats(0, 2), st.floats(0, 2))  # success, hard, pause, duration


@given(st.lists(calls, max_size=50), st.integers(1, 5))
def test_any_call_that_begins_now_and_succeeds_closes_it(
    history: list[tuple[bool, bool, float, float]], n: int
) -> None:
    breaker, now = Breaker(failures=n), 0.0
    for success, hard, pause, duration in history:
        began, now = now + pause, now + pause + duration
        if success:
            breaker.succeeded(began, now)
        else:
            breaker.failed(began, now, hard=hard)
        assert 0.25 <= breaker.wait_s <= 1
    breaker.succeeded(now, now)
    assert breaker.closed
    assert [breaker.failed(now + i, now + i) for i in range(n)] == [False] * (n - 1) + [True]
