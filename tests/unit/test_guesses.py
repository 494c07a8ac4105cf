"""Whoever guesses keys has to wait; nobody else does, and memory stays bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.guesses import WINDOW_S, Guesses

NOW = 1_800_000_000.0


def failed(guesses: Guesses, address: str, times: int, now: float = NOW) -> None:
    for _ in range(times):
        guesses.failed(address, now)


def test_an_address_waits_from_its_last_permitted_failure_until_its_minute_is_over() -> None:
    guesses = Guesses(3)
    failed(guesses, "192.0.2.7", 2)
    assert guesses.wait_s("192.0.2.7", NOW) == 0
    failed(guesses, "192.0.2.7", 1, NOW + 10)
    assert guesses.wait_s("192.0.2.7", NOW + 10) == 50
    assert guesses.wait_s("192.0.2.7", NOW + 59.5) == 1
    assert guesses.wait_s("192.0.2.7", NOW + 60) == 0
    assert guesses.wait_s("192.0.2.8", NOW + 10) == 0


def test_a_new_minute_begins_with_the_next_failure() -> None:
    guesses = Guesses(2)
    failed(guesses, "192.0.2.7", 2)
    failed(guesses, "192.0.2.7", 1, NOW + 61)
    assert guesses.wait_s("192.0.2.7", NOW + 61) == 0
    failed(guesses, "192.0.2.7", 1, NOW + 100)
    assert guesses.wait_s("192.0.2.7", NOW + 100) == 21


def test_zero_counts_nothing() -> None:
    guesses = Guesses(0)
    failed(guesses, "192.0.2.7", 1000)
    assert guesses.wait_s("192.0.2.7", NOW) == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("192.0.2.7", "::ffff:192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("", "", True),
        ("/run/a.sock", "192.0.2.7", False),
    ],
)
def test_a_host_is_one_address_and_an_ipv6_host_has_a_64(one: str, other: str, same: bool) -> None:
    guesses = Guesses(1)
    failed(guesses, one, 1)
    assert (guesses.wait_s(other, NOW) > 0) is same


def test_of_many_addresses_those_that_failed_last_are_remembered() -> None:
    guesses = Guesses(1, max_addresses=100)
    for number in range(300):
        guesses.failed(f"10.0.{number // 256}.{number % 256}", NOW)
    assert len(guesses._minutes) == 100
    assert guesses.wait_s("10.0.0.1", NOW) == 0
    assert guesses.wait_s("10.0.1.43", NOW) == 60


def test_a_clock_that_was_set_back_locks_nobody_out() -> None:
    guesses = Guesses(1)
    failed(guesses, "192.0.2.7", 1, NOW + 3600)
    assert guesses.wait_s("192.0.2.7", NOW) == 0
    failed(guesses, "192.0.2.7", 1, NOW)
    assert guesses.wait_s("192.0.2.7", NOW) == 60


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 500)), max_size=60), st.integers(1, 4))
def test_nobody_waits_longer_than_a_minute_or_without_having_failed_so_often(
    events: list[tuple[str, float]], per_minute: int
) -> None:
    guesses = Guesses(per_minute)
    happened: list[tuple[str, float]] = []
    for address, at in sorted(events, key=lambda event: event[1]):
        guesses.failed(address, at)
        happened.append((address, at))
        recent = sum(who == address and at - when <= WINDOW_S for who, when in happened)
        wait = guesses.wait_s(address, at)
        assert 0 <= wait <= WINDOW_S
        assert not wait or recent >= per_minute
