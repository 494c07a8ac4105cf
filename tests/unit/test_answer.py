"""What a client is told of its limits: the same numbers in every notation, and the truth about when to come back."""

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.contract.errors import INSUFFICIENT_QUOTA, RATE_LIMITED
from gatehouse.contract.periods import PERIODS
from ratelimit_service.answer import CONCURRENT_RETRY_MS, Refusal, duration, headers, refusal
from ratelimit_service.caller import Caller
from ratelimit_service.header_plan import shown
from ratelimit_service.plan import Plan
from ratelimit_service.rules.rule_set import Concurrency, Rule
from ratelimit_service.store.limits import Limit
from ratelimit_service.store.port import Ask, Charge, Decision, LeaseAsk, LeaseOutcome, Outcome

DAY_MS = 86_400_000
ALICE = Caller("alice", team="search", tier="standard", key_id="laptop")
Window = tuple[Rule, Outcome]


def window(
    period: str,
    amount: int,
    remaining: int,
    reset_ms: int = 1000,
    retry_ms: int | None = 0,
    *,
    measure: str = "requests",
    scope: str = "tier",
    shadow: bool = False,
) -> Window:
    """A rule and what became of it. It refuses unless `retry_ms` is 0."""
    limit = Limit(f"{measure}_per_{period}", amount, PERIODS[period], shadow=shadow)
    outcome = Outcome(Charge("{u:alice}", limit), retry_ms == 0, remaining, reset_ms, retry_ms)
    return Rule(limit, measure, scope, "r"), outcome


def lease(most: int, *, allowed: bool, shadow: bool = False) -> tuple[Concurrency, LeaseOutcome]:
    ask = LeaseAsk("{u:alice}c", "concurrent_requests", most, 15_000, shadow)
    return Concurrency(most, "concurrent_requests", "tier", "c", shadow), LeaseOutcome(ask, allowed, most)


def decided(
    windows: Sequence[Window], leases: Sequence[tuple[Concurrency, LeaseOutcome]] = (), *, allowed: bool
) -> tuple[Plan, Decision]:
    rules = tuple(rule for rule, _ in windows)
    plan = Plan(Ask("r-1", ()), rules, tuple(rule for rule, _ in leases), shown(rules))
    return plan, Decision(allowed, tuple(each for _, each in windows), tuple(each for _, each in leases))


def said(*windows: Window) -> list[tuple[str, str]]:
    return headers(*decided(windows, allowed=True))


def refused(*windows: Window) -> Refusal:
    return refusal(*decided(windows, allowed=False), ALICE)


MINUTE = window("minute", 30, 12, 20_500)
HOUR = window("hour", 300, 150, 2_520_000)


def test_an_answer_names_minute_and_hour_and_the_tightest() -> None:
    assert said(MINUTE, HOUR) == [
        ("x-ratelimit-limit-minute", "30"),
        ("x-ratelimit-remaining-minute", "12"),
        ("x-ratelimit-limit-hour", "300"),
        ("x-ratelimit-remaining-hour", "150"),
        ("x-ratelimit-limit-requests", "30"),
        ("x-ratelimit-remaining-requests", "12"),
        ("x-ratelimit-reset-requests", "20.5s"),
    ]


def test_tokens_are_told_apart_from_requests() -> None:
    tokens = window("minute", 200_000, 150_000, 6_000, measure="tokens")
    assert said(tokens, MINUTE)[-6:] == [
        ("x-ratelimit-limit-requests", "30"),
        ("x-ratelimit-remaining-requests", "12"),
        ("x-ratelimit-reset-requests", "20.5s"),
        ("x-ratelimit-limit-tokens", "200000"),
        ("x-ratelimit-remaining-tokens", "150000"),
        ("x-ratelimit-reset-tokens", "6s"),
    ]
    assert dict(said(tokens, MINUTE))["x-ratelimit-limit-minute"] == "30"


def test_without_limits_nothing_is_said() -> None:
    assert said() == []


@pytest.mark.parametrize("order", [1, -1])
def test_the_tightest_window_is_the_one_with_the_least_left(order: int) -> None:
    windows = [window("minute", 30, 29), window("hour", 300, 7, 60_000), window("day", 3000, 2000)][::order]
    assert said(*windows)[-3:] == [
        ("x-ratelimit-limit-requests", "300"),
        ("x-ratelimit-remaining-requests", "7"),
        ("x-ratelimit-reset-requests", "1m0s"),
    ]


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_that_are_equally_tight_it_is_the_one_that_stays_so_for_longer(order: int) -> None:
    windows = [window("minute", 30, 5, 30_000), window("hour", 300, 5, 1_800_000)][::order]
    assert dict(said(*windows))["x-ratelimit-limit-requests"] == "300"


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_holders_limits_the_tighter_is_shown(order: int) -> None:
    windows = [window("minute", 30, 20), window("minute", 100, 3, scope="team")][::order]
    assert said(*windows)[:2] == [("x-ratelimit-limit-minute", "100"), ("x-ratelimit-remaining-minute", "3")]


def test_a_shadow_is_shown_to_nobody() -> None:
    assert said(window("minute", 1, 0, shadow=True)) == []
    assert said(window("hour", 1, 0, shadow=True), MINUTE) == said(MINUTE)


def test_a_refusal_is_a_whole_429() -> None:
    answer = refused(window("minute", 30, 0, 41_300, 1_234), HOUR)
    assert answer.error == RATE_LIMITED.with_message(
        "Rate limit exceeded. Maximum 30 requests per minute allowed for tier 'standard'. Please try again in 1.234s."
    )
    assert answer.limited_by == "requests_per_minute"
    assert answer.headers == [
        ("x-ratelimit-limit-minute", "30"),
        ("x-ratelimit-remaining-minute", "0"),
        ("x-ratelimit-limit-hour", "300"),
        ("x-ratelimit-remaining-hour", "150"),
        ("x-ratelimit-limit-requests", "30"),
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-reset-requests", "41.3s"),
        ("retry-after", "2"),
        ("retry-after-ms", "1234"),
        ("content-type", "application/json"),
    ]


@pytest.mark.parametrize("period", ["second", "minute", "hour", "day"])
def test_the_text_names_the_limit(period: str) -> None:
    expected = f"Maximum 7 requests per {period} allowed for tier 'standard'. Please try again in 1s."
    assert refused(window(period, 7, 0, 1000, 1000)).error.message == f"Rate limit exceeded. {expected}"


WHOSE = [
    ("tier", "tier 'standard'"),
    ("model", "this model and tier 'standard'"),
    ("user", "user 'alice'"),
    ("team", "team 'search'"),
    ("key", "key 'laptop'"),
]


@pytest.mark.parametrize(("scope", "whose"), WHOSE)
def test_the_text_names_whose_limit_it_is(scope: str, whose: str) -> None:
    message = refused(window("minute", 7, 0, 1000, 1000, scope=scope, measure="output_tokens")).error.message
    assert f"Maximum 7 output tokens per minute allowed for {whose}. " in message


WAITS = [(1, "1"), (999, "1"), (1000, "1"), (1001, "2"), (59_999, "60"), (60_000, "60"), (DAY_MS, "86400")]


@pytest.mark.parametrize(("wait_ms", "seconds"), WAITS)
def test_retry_after_is_rounded_up(wait_ms: int, seconds: str) -> None:
    told = dict(refused(window("day", 7, 0, DAY_MS, wait_ms)).headers)
    assert (told["retry-after"], told["retry-after-ms"]) == (seconds, str(wait_ms))
    assert "x-should-retry" not in told


@given(st.integers(1, 400 * DAY_MS))
def test_who_obeys_retry_after_is_never_early(wait_ms: int) -> None:
    told = dict(refused(window("day", 7, 0, DAY_MS, wait_ms)).headers)
    assert wait_ms <= int(told["retry-after"]) * 1000 < wait_ms + 1000


def test_what_waiting_does_not_help_is_not_to_be_tried_again() -> None:
    answer = refused(window("minute", 7, 7, 0, None, measure="tokens"))
    assert "try again" not in answer.error.message
    told = dict(answer.headers)
    assert told["x-should-retry"] == "false"
    assert "retry-after" not in told


def test_a_spent_budget_is_an_insufficient_quota() -> None:
    answer = refused(window("month", 500_250_000, 0, DAY_MS, DAY_MS, measure="budget"))
    expected = "Budget spent. Maximum 500.25 USD per month allowed for tier 'standard'. Please try again in 24h0m0s."
    assert answer.error == INSUFFICIENT_QUOTA.with_message(expected)
    told = dict(answer.headers)
    assert (told["x-should-retry"], told["retry-after"]) == ("false", "86400")


@pytest.mark.parametrize(("micro_usd", "usd"), [(500_000, "0.5"), (12_345_670_000, "12345.67"), (10**12, "1000000")])
def test_a_budget_is_shown_to_the_cent(micro_usd: int, usd: str) -> None:
    message = refused(window("month", micro_usd, 0, DAY_MS, DAY_MS, measure="budget")).error.message
    assert f"Maximum {usd} USD per month" in message


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_that_refuse_the_one_with_the_longest_wait_is_named(order: int) -> None:
    windows = [window("minute", 30, 0, 9_000, 9_000), window("hour", 300, 0, 90_000, 90_000), window("day", 9, 4)]
    answer = refused(*windows[::order])
    assert answer.limited_by == "requests_per_hour"
    assert "Maximum 300 requests per hour" in answer.error.message
    assert dict(answer.headers)["retry-after"] == "90"


def test_a_shadow_is_never_the_limit_that_is_named() -> None:
    shadow = window("hour", 1, 0, 3_000_000, 3_000_000, shadow=True)
    answer = refused(shadow, window("minute", 30, 0, 9_000, 9_000))
    assert answer.limited_by == "requests_per_minute"
    assert dict(answer.headers)["retry-after"] == "9"
    assert "hour" not in answer.error.message


def test_too_many_at_a_time_may_come_back_soon() -> None:
    leases = [lease(1, allowed=False, shadow=True), lease(20, allowed=False), lease(99, allowed=True)]
    answer = refusal(*decided([MINUTE], leases, allowed=False), ALICE)
    expected = "Maximum 20 concurrent requests allowed for tier 'standard'. Please try again in 1s."
    assert answer.error.message == f"Rate limit exceeded. {expected}"
    assert answer.limited_by == "concurrent_requests"
    assert ("retry-after-ms", str(CONCURRENT_RETRY_MS)) in answer.headers


DURATIONS = [
    (0, "0s"),
    (1, "1ms"),
    (120, "120ms"),
    (999, "999ms"),
    (1000, "1s"),
    (1500, "1.5s"),
    (1001, "1.001s"),
    (1010, "1.01s"),
    (10_000, "10s"),
    (59_999, "59.999s"),
    (60_000, "1m0s"),
    (61_500, "1m1.5s"),
    (360_000, "6m0s"),
    (3_600_000, "1h0m0s"),
    (3_660_001, "1h1m0.001s"),
    (DAY_MS, "24h0m0s"),
    (30 * DAY_MS, "720h0m0s"),
]


@pytest.mark.parametrize(("milliseconds", "text"), DURATIONS)
def test_durations_are_written_as_openai_writes_them(milliseconds: int, text: str) -> None:
    assert duration(milliseconds) == text


def parsed(text: str) -> int:
    """Milliseconds, as Go's `time.ParseDuration` reads them."""
    units = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", text)
    assert "".join(number + unit for number, unit in parts) == text
    return round(sum(float(number) * units[unit] for number, unit in parts))


@given(st.integers(0, 400 * DAY_MS))
def test_a_duration_reads_back_as_what_it_was(milliseconds: int) -> None:
    assert parsed(duration(milliseconds)) == milliseconds


@given(
    st.lists(
        st.builds(
            window,
            st.sampled_from(["second", "minute", "hour", "day", "month"]),
            st.integers(1, 10**9),
            st.integers(0, 10**9),
            st.integers(0, DAY_MS),
            st.none() | st.integers(0, DAY_MS),
            measure=st.sampled_from(["requests", "tokens", "input_tokens", "output_tokens"]),
            shadow=st.booleans(),
        ),
        max_size=8,
    )
)
def test_headers_are_clean_whatever_the_decision(windows: list[Window]) -> None:
    told = said(*windows)
    assert len(dict(told)) == len(told)
    for name, value in told:
        assert re.fullmatch(
            r"x-ratelimit-((limit|remaining)-(minute|hour)|(limit|remaining|reset)-(requests|tokens))", name
        )
        assert re.fullmatch(r"\d+|[\dhms.]+s", value)
