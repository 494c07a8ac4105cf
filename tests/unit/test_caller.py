"""A descriptor becomes a caller whatever a client put into it."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.contract import names
from gatehouse.contract.asks import MAX_NUMBER, NOTHING_SAID, Asks
from gatehouse.contract.names import DOMAIN
from gatehouse.envoy.filters import chain
from ratelimit_service.caller import Caller, caller


@dataclass(frozen=True, slots=True)
class Entry:
    key: str
    value: str


FIELDS = (
    "user",
    "team",
    "tier",
    "key_id",
    "model",
    "request_id",
    "asks",
    "key_limits",
    "key_family",
)
anything = st.builds(
    Entry, st.sampled_from(FIELDS) | st.text(), st.text() | st.sampled_from(["", "-", "1/1/1/1", "-1", "²"])
)


def test_a_whole_descriptor_is_read() -> None:
    values = ("alice", "search", "premium", "laptop", "llama", "r-1", "256/2/1024/0", '{"requests_per_day":5}', "k1")
    said = caller(map(Entry, FIELDS, values))
    asks = Asks(256, 2, 1024, 0)
    assert said == Caller("alice", "search", "premium", "laptop", "llama", "r-1", asks, '{"requests_per_day":5}', "k1")


def test_an_empty_descriptor_says_nothing() -> None:
    assert caller([]) == Caller(user="", asks=NOTHING_SAID)


@pytest.mark.parametrize("absent", ["", "-"])
def test_what_envoy_has_no_value_for_is_absent(absent: str) -> None:
    assert caller(Entry(field, absent) for field in FIELDS) == Caller(user="")


def test_entries_of_other_names_are_ignored() -> None:
    assert caller([Entry("USER", "eve"), Entry("user", "alice"), Entry("remote_address", "x")]) == Caller("alice")


@given(st.lists(anything))
def test_no_descriptor_is_too_odd_to_read(entries: list[Entry]) -> None:
    said = caller(entries)
    assert all(count is None or 0 <= count <= MAX_NUMBER for count in said.asks)
    last = {entry.key: entry.value for entry in entries if entry.value not in ("", "-")}
    assert (said.user, said.model) == (last.get("user", ""), last.get("model", ""))


def test_what_is_read_is_what_envoy_is_told_to_send() -> None:
    limits = next(each["typed_config"] for each in chain(1) if each["name"] == names.LIMITS)
    (limit,) = limits["rate_limits"]
    assert {next(iter(action.values()))["descriptor_key"] for action in limit["actions"]} == set(FIELDS)
    assert limits["domain"] == DOMAIN
