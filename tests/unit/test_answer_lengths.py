"""How long answers usually are is learned quickly, from few recent ones, in bounded memory."""

from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.estimate.answer_lengths import FEW, LEAST, MOST, RECENT, UNKNOWN, Lengths


def learned(*tokens: int) -> int:
    lengths = Lengths()
    for each in tokens:
        lengths.learn("ann", "m", each)
    return lengths.usual("ann", "m")


def test_a_few_answers_are_enough() -> None:
    assert learned(*[70] * (FEW - 1)) == UNKNOWN
    assert learned(*[70] * FEW) == 70


def test_nine_of_ten_are_not_longer() -> None:
    assert learned(*range(100, 120)) == 117
    assert learned(*[100] * 18, 900, 900) == 100
    assert learned(*[100] * 17, 900, 900, 900) == 900


def test_only_recent_ones_count() -> None:
    assert learned(*[5000] * 100, *[40] * RECENT) == 40


def test_users_and_models_are_learned_apart() -> None:
    lengths = Lengths()
    for _ in range(FEW):
        lengths.learn("ann", "m", 70)
    assert (lengths.usual("ann", "other"), lengths.usual("bob", "m")) == (UNKNOWN, UNKNOWN)


def test_whoever_was_answered_longest_ago_is_forgotten_first() -> None:
    lengths = Lengths(holders=2)
    for user in ("ann", "bob", "ann", "cid"):
        for _ in range(FEW):
            lengths.learn(user, "m", 70)
    assert [lengths.usual(user, "m") for user in ("ann", "bob", "cid")] == [70, UNKNOWN, 70]
    assert len(lengths) == 2


@given(st.lists(st.integers(0, 2**40), min_size=FEW))
def test_a_guess_is_within_reason(tokens: list[int]) -> None:
    assert LEAST <= learned(*tokens) <= MOST
