"""The algorithms by example: small numbers that a reader can check by hand. Times in milliseconds."""

import pytest

from ratelimit_service.store.algorithms import EMPTY, FixedWindow, SlidingWindow, State, TokenBucket
from ratelimit_service.store.limits import MAX_AMOUNT, Algorithm, Limit

MINUTE = 60_000


def limit(algorithm: Algorithm, amount: int = 10, burst: int | None = None) -> Limit:
    return Limit("requests", amount, 60, algorithm, burst)


def charged(state: State, per_minute: Limit, *times: int, hits: int = 1) -> State:
    for time in times:
        state = state.charge(per_minute, hits, time)
    return state


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_nothing_charged_leaves_the_whole_limit(algorithm: Algorithm) -> None:
    assert EMPTY[algorithm].remaining(limit(algorithm), 5 * MINUTE) == 10
    assert EMPTY[algorithm].wait(limit(algorithm), 10, 5 * MINUTE) == 0


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_more_hits_than_the_limit_can_never_pass(algorithm: Algorithm) -> None:
    assert EMPTY[algorithm].wait(limit(algorithm), 11, 0) is None


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_no_hits_ask_whether_one_would_pass(algorithm: Algorithm) -> None:
    full = EMPTY[algorithm].charge(limit(algorithm), 10, 0)
    assert full.wait(limit(algorithm), 0, 0) == full.wait(limit(algorithm), 1, 0) != 0
    assert EMPTY[algorithm].wait(limit(algorithm), 0, 0) == 0


@pytest.mark.parametrize("algorithm", [Algorithm.SLIDING_WINDOW, Algorithm.FIXED_WINDOW])
def test_limit_of_nothing_refuses_everything_for_ever(algorithm: Algorithm) -> None:
    assert EMPTY[algorithm].wait(limit(algorithm, 0), 0, 0) is None
    assert EMPTY[algorithm].remaining(limit(algorithm, 0), 0) == 0


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_counts_stop_at_the_largest_exact_number(algorithm: Algorithm) -> None:
    largest = limit(algorithm, MAX_AMOUNT)
    state = EMPTY[algorithm].charge(largest, MAX_AMOUNT, 0).charge(largest, MAX_AMOUNT, 0)
    assert state.amend(largest, state.mark(largest, 0), -1, 0).remaining(largest, 0) == 1


def test_fixed_window_is_whole_again_at_a_multiple_of_its_period() -> None:
    requests = limit(Algorithm.FIXED_WINDOW)
    full = charged(FixedWindow(), requests, 3 * MINUTE + 59_000, hits=10)
    assert full.wait(requests, 1, 3 * MINUTE + 59_000) == 1_000
    assert full.remaining(requests, 4 * MINUTE) == 10


def test_burst_leaves_a_sliding_window_exactly_one_period_later() -> None:
    requests = limit(Algorithm.SLIDING_WINDOW)
    full = charged(SlidingWindow(), requests, 90_000, hits=10)
    assert full.wait(requests, 1, 119_000) == 31_000
    assert full.remaining(requests, 149_999) == 0
    assert full.remaining(requests, 150_000) == 10


def test_steady_hits_leave_a_sliding_window_one_by_one() -> None:
    requests = limit(Algorithm.SLIDING_WINDOW)
    full = charged(SlidingWindow(), requests, *range(0, 60_000, 6_000))
    assert [full.remaining(requests, MINUTE + t) for t in (0, 5_999, 6_000, 53_999, 54_000)] == [1, 1, 2, 9, 10]


def test_limit_of_one_is_exact_in_a_sliding_window() -> None:
    one = limit(Algorithm.SLIDING_WINDOW, 1)
    assert charged(SlidingWindow(), one, 59_999).wait(one, 1, 60_000) == 59_999


def test_token_bucket_lets_the_burst_pass_and_then_its_rate() -> None:
    requests = limit(Algorithm.TOKEN_BUCKET, 10, burst=3)
    empty = charged(TokenBucket(), requests, 1_000, 1_000, 1_000)
    assert empty.wait(requests, 1, 1_000) == 6_000
    assert empty.wait(requests, 3, 1_000) == 18_000
    assert empty.reset_after(requests, 1_000) == 18_000


def test_token_bucket_waits_full_milliseconds_for_fractions() -> None:
    seven = limit(Algorithm.TOKEN_BUCKET, 7, burst=1)
    assert charged(TokenBucket(), seven, 0).wait(seven, 1, 0) == 8_572  # 60,000 / 7 = 8,571.4…


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_reservation_is_given_back_whole_at_once(algorithm: Algorithm) -> None:
    tokens = limit(algorithm, 1_000)
    reserved = EMPTY[algorithm].charge(tokens, 700, 30_000)
    settled = reserved.amend(tokens, reserved.mark(tokens, 30_000), -700, 30_000)
    assert settled.remaining(tokens, 30_000) == 1_000


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_what_no_longer_counts_is_not_given_back(algorithm: Algorithm) -> None:
    tokens = limit(algorithm, 1_000)
    reserved = EMPTY[algorithm].charge(tokens, 700, 30_000)
    mark = reserved.mark(tokens, 30_000)
    later = reserved.charge(tokens, 500, 30_000 + 2 * MINUTE)
    assert later.amend(tokens, mark, -700, 30_000 + 2 * MINUTE).remaining(tokens, 30_000 + 2 * MINUTE) == 500


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_what_was_missing_is_charged_to_the_present(algorithm: Algorithm) -> None:
    tokens = limit(algorithm, 1_000)
    mark = EMPTY[algorithm].charge(tokens, 100, 30_000).mark(tokens, 30_000)
    late = EMPTY[algorithm].amend(tokens, mark, 400, 30_000 + 2 * MINUTE)
    assert late.remaining(tokens, 30_000 + 2 * MINUTE) == 600


def test_sliding_window_corrects_the_window_of_the_reservation() -> None:
    tokens = limit(Algorithm.SLIDING_WINDOW, 1_000)
    reserved = charged(SlidingWindow(), tokens, 50_000, hits=1_000)
    mark = reserved.mark(tokens, 50_000)
    assert reserved.amend(tokens, mark, -800, 70_000).remaining(tokens, 70_000) == 800


def test_token_bucket_gives_back_only_what_has_not_drained() -> None:
    tokens = limit(Algorithm.TOKEN_BUCKET, 60)
    reserved = charged(TokenBucket(), tokens, 0, hits=30)
    later = charged(reserved, tokens, 20_000, hits=40)
    assert later.amend(tokens, reserved.mark(tokens, 0), -30, 20_000).remaining(tokens, 20_000) == 60 - 40


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"amount": -1}, "amount -1"),
        ({"amount": MAX_AMOUNT + 1}, "amount"),
        ({"period_s": 0}, "period 0 s"),
        ({"period_s": 366 * 86_400}, "period"),
        ({"burst": 5}, "only a token_bucket has a burst"),
        ({"algorithm": Algorithm.TOKEN_BUCKET, "burst": 0}, "burst 0"),
        ({"algorithm": Algorithm.TOKEN_BUCKET, "amount": 0}, "never fills"),
    ],
)
def test_limit_out_of_range_is_an_error_that_names_it(fields: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=f"'tokens'.*{reason}"):
        Limit(**{"name": "tokens", "amount": 10, "period_s": 60, **fields})  # type: ignore[arg-type]
