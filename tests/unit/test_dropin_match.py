"""Which limits apply to a request, what they count together, and what their statistics are called."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.dropin.config.parse import load
from ratelimit_service.dropin.config.rules import Rules, covers
from ratelimit_service.dropin.match import Descriptor, Match, Override, RequestError, matches, sanitised

Entries = tuple[tuple[str, str], ...]


def rules(text: str) -> Rules:
    return load([("f.yaml", text)])


def entries(text: str) -> Entries:
    """`a=b,c=` -> (("a", "b"), ("c", ""))"""
    pairs = [entry.partition("=") for entry in text.split(",")]
    return tuple((key, value) for key, _, value in pairs)


def found(tree: Rules, *descriptors: str, domain: str = "d") -> list[Match | None]:
    return matches(tree, domain, [Descriptor(entries(text)) for text in descriptors])


def amount(match: Match | None) -> int | None:
    """How much is allowed; None: no limit applies."""
    if match is None:
        return None
    return -1 if match.rate_limit.limit is None else match.rate_limit.limit.amount


def one(tree: Rules, text: str) -> Match:
    (match,) = found(tree, text)
    assert match is not None
    return match


LOOKUP = rules("""
domain: d
descriptors:
  - key: remote_address
    rate_limit: {unit: second, requests_per_unit: 10}
  - key: remote_address
    value: 50.0.0.5
    rate_limit: {unit: second, requests_per_unit: 100}
  - key: path
    value: /foo/*
    rate_limit: {unit: minute, requests_per_unit: 1}
  - key: path
    value: /foo/*/bar
    rate_limit: {unit: minute, requests_per_unit: 2}
  - key: path
    value: "*/x/*/y"
    rate_limit: {unit: minute, requests_per_unit: 3}
  - key: path
    value: /foo/exact
    rate_limit: {unit: minute, requests_per_unit: 4}
  - key: message_type
    value: marketing
    descriptors:
      - key: to_number
        rate_limit: {unit: day, requests_per_unit: 5}
      - key: to_number
        value: "211*"
        rate_limit: {unit: day, requests_per_unit: 6}
  - key: to_number
    rate_limit: {unit: day, requests_per_unit: 100}
    descriptors:
      - key: country
        rate_limit: {unit: day, requests_per_unit: 7}
  - key: free
    rate_limit: {unlimited: true}
""")

CASES = [
    ("remote_address=50.0.0.5", 100, "the exact value"),
    ("remote_address=1.2.3.4", 10, "the bare key for any other"),
    ("remote_address=", 10, "the bare key for no value"),
    ("path=/foo/exact", 4, "the exact value before a wildcard"),
    ("path=/foo/a/bar", 1, "the first wildcard of the file"),
    ("path=/b/x/c/y", 3, "several wildcards"),
    ("path=/b/y/c/x", None, "parts in another order"),
    ("path=/bar", None, "no rule"),
    ("message_type=marketing,to_number=555", 5, "a nested rule"),
    ("message_type=marketing,to_number=2115", 6, "a nested wildcard"),
    ("message_type=marketing", None, "above the limit"),
    ("message_type=other,to_number=555", None, "another parent"),
    ("to_number=555", 100, "a limit with rules below"),
    ("to_number=555,country=de", 7, "the rule below"),
    ("to_number=555,other=x", None, "a limit met before the last entry"),
    ("remote_address=1.2.3.4,other=x", None, "deeper than the rules"),
    ("free=x", -1, "an unlimited one"),
]


@pytest.mark.parametrize(("descriptor", "expected", "why"), CASES, ids=[case[2] for case in CASES])
def test_descriptor_meets_its_rule(descriptor: str, expected: int | None, why: str) -> None:
    assert [amount(match) for match in found(LOOKUP, descriptor)] == [expected]


def test_unknown_domain_has_no_limits() -> None:
    assert found(LOOKUP, "to_number=1", domain="other") == [None]


@given(st.lists(st.text("ab", max_size=3), min_size=2, max_size=4), st.text("ab", max_size=12))
def test_wildcard_covers_what_the_pattern_says(parts: list[str], text: str) -> None:
    assert covers("*".join(parts), text) == bool(re.fullmatch(".*".join(parts), text))


# What is counted together

SHARED = rules("""
domain: d
descriptors:
  - key: path
    value: /foo/*
    share_threshold: true
    rate_limit: {unit: minute, requests_per_unit: 1}
    descriptors:
      - key: user
        rate_limit: {unit: minute, requests_per_unit: 1}
  - key: path
    value: /bar/*
    rate_limit: {unit: minute, requests_per_unit: 1}
""")


def test_shared_threshold_counts_all_matches_together() -> None:
    assert one(SHARED, "path=/foo/a").key == one(SHARED, "path=/foo/b").key


def test_other_wildcards_count_each_value_alone() -> None:
    assert one(SHARED, "path=/bar/a").key != one(SHARED, "path=/bar/b").key


def test_shared_threshold_holds_for_its_own_level_only() -> None:
    assert one(SHARED, "path=/foo/a,user=x").key == one(SHARED, "path=/foo/b,user=x").key
    assert one(SHARED, "path=/foo/a,user=x").key != one(SHARED, "path=/foo/a,user=y").key


ANY = rules("""
domain: d
descriptors:
  - key: a
    rate_limit: {unit: day, requests_per_unit: 1}
    descriptors: [{key: b, rate_limit: {unit: day, requests_per_unit: 1}}]
  - key: a_b
    rate_limit: {unit: day, requests_per_unit: 1}
""")


def test_underscores_never_mix_counts() -> None:
    assert one(ANY, "a_b=c").key != one(ANY, "a=b_c").key


PAIR = rules("""
domain: d
descriptors:
  - key: x
    descriptors: [{key: y, rate_limit: {unit: day, requests_per_unit: 1}}]
""")


@given(*[st.text("ab_|=~%{}.", max_size=5)] * 4)
def test_different_values_have_different_counts(a: str, b: str, c: str, d: str) -> None:
    first, second = (matches(PAIR, "d", [Descriptor((("x", x), ("y", y)))])[0] for x, y in ((a, b), (c, d)))
    assert first is not None
    assert second is not None
    assert (first.key == second.key) == ((a, b) == (c, d))


# Statistics

STATS = rules("""
domain: d
descriptors:
  - key: plain
    rate_limit: {unit: day, requests_per_unit: 1}
  - key: exact
    value: v
    rate_limit: {unit: day, requests_per_unit: 1}
  - key: wild
    value: "a*"
    rate_limit: {unit: day, requests_per_unit: 1}
  - key: detailed
    descriptors:
      - key: wild
        value: "a*"
        detailed_metric: true
        metadata: {kept: true}
        rate_limit: {unit: day, requests_per_unit: 1}
  - key: valued
    value_to_metric: true
    descriptors:
      - key: wild
        value: "a*"
        metadata: {kept: true}
        rate_limit: {unit: day, requests_per_unit: 1}
  - key: shared
    value: "a*"
    share_threshold: true
    detailed_metric: true
    value_to_metric: true
    metadata: {kept: true}
    rate_limit: {unit: day, requests_per_unit: 1}
""")


@pytest.mark.parametrize(
    ("descriptor", "path"),
    [
        ("plain=x", ("d", "plain")),
        ("exact=v", ("d", "exact_v")),
        ("wild=abc", ("d", "wild_a*")),
        ("detailed=x,wild=abc", ("d", "detailed_x", "wild_abc")),
        ("detailed=,wild=abc", ("d", "detailed_", "wild_abc")),
        ("valued=x,wild=abc", ("d", "valued_x", "wild_a*")),
        ("shared=abc", ("d", "shared_a*")),
        ("plain=10.1.2.3", ("d", "plain")),
        ("detailed=10.1.2.3:80,wild=a|b", ("d", "detailed_10_1_2_3_80", "wild_a_b")),
    ],
)
def test_statistics_are_named_after_the_rule_or_the_values_it_wants(descriptor: str, path: tuple[str, ...]) -> None:
    assert one(STATS, descriptor).stat == path


@pytest.mark.parametrize("descriptor", ["detailed=x,wild=abc", "valued=x,wild=abc", "shared=abc"])
def test_metadata_outlives_every_name(descriptor: str) -> None:
    assert one(STATS, descriptor).rate_limit.metadata == {"kept": True}


def test_dots_of_other_numbers_stay() -> None:
    assert sanitised("v1.2.3") == "v1.2.3"
    assert sanitised("1.2.3.4.5") == "1.2.3.4.5"


def test_statistics_have_short_names_whatever_a_caller_sends() -> None:
    path = one(STATS, f"detailed={'x' * 60_000},wild=abc").stat
    assert [len(label) for label in path] == [1, 200, len("wild_abc")]


# Limits that replace others

REPLACING = rules("""
domain: d
descriptors:
  - key: user
    rate_limit: {unit: day, requests_per_unit: 1, name: default}
  - key: vip
    rate_limit: {unit: day, requests_per_unit: 2, name: better, replaces: [{name: default}]}
  - key: staff
    rate_limit: {unlimited: true, replaces: [{name: default}, {name: better}]}
  - key: nameless
    rate_limit: {unit: day, requests_per_unit: 3}
""")


@pytest.mark.parametrize(
    ("descriptors", "amounts"),
    [
        (["user=a", "vip=a"], [None, 2]),
        (["vip=a", "user=a", "nameless=a"], [2, None, 3]),
        (["user=a", "nameless=a"], [1, 3]),
        (["user=a", "staff=a", "vip=a"], [None, -1, None]),
    ],
)
def test_replaced_limits_do_not_apply(descriptors: list[str], amounts: list[int | None]) -> None:
    assert [amount(match) for match in found(REPLACING, *descriptors)] == amounts


# Limits that the caller brings


def overriding(override: Override, domain: str = "d") -> Match | None:
    return matches(REPLACING, domain, [Descriptor((("x", "1"), ("y", "")), override=override)])[0]


def test_override_takes_the_place_of_the_rules() -> None:
    match = overriding(Override(42, "HOUR"))
    assert amount(match) == 42
    assert match is not None
    assert match.rate_limit.limit is not None
    assert match.rate_limit.limit.period_s == 3600
    assert match.stat == ("d", "x_1", "y")


def test_override_may_span_several_units() -> None:
    match = overriding(Override(42, "MINUTE", 5))
    assert match is not None
    assert match.rate_limit.limit is not None
    assert match.rate_limit.limit.period_s == 300


def test_override_needs_a_known_domain() -> None:
    assert overriding(Override(42, "HOUR"), "other") is None


@pytest.mark.parametrize("override", [Override(1, "UNKNOWN"), Override(1, "YEAR", 2)])
def test_override_that_is_no_limit_is_an_error(override: Override) -> None:
    with pytest.raises(RequestError):
        overriding(override)
