"""Recorded requests against other limits: the limiter's own specification, driven by the times of the log."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accesslog_service.record import Record
from accesslog_service.settlements import settlement
from gatehouse.config.model import Config
from gatehouse.contract import metering
from gatehouse.contract.names import ENDPOINTS
from ratelimit_service.estimate.guess import Tokens
from ratelimit_service.plan import Plans
from ratelimit_service.simulate.logged import KeyLimits, Logged
from ratelimit_service.simulate.replay import LEASE_TTL_MS, Replay, Verdict
from ratelimit_service.simulate.tally import Tally
from testkit.request_logs import record, refused


def logged(each: Record) -> Logged:
    return Logged(
        start_ms=round(each.time.timestamp() * 1000),
        duration_ms=round(each.duration_ms),
        request_id=each.request_id,
        user_id=each.user_id,
        team=each.team or "",
        tier=each.tier or "",
        key_id=each.key_id or "",
        model=each.model or "",
        endpoint=each.endpoint,
        status=each.status,
        error_code=each.error_code,
        prompt_tokens=each.prompt_tokens,
        completion_tokens=each.completion_tokens,
        cached_tokens=each.cached_tokens or 0,
        attempts=each.attempts,
        bytes_in=each.bytes_in,
        bytes_out=each.bytes_out,
        limited_by=each.limited_by,
        aborted=each.aborted,
        max_tokens=each.max_tokens,
        n=each.n,
        prompt_bytes=each.prompt_bytes,
        images=each.images,
    )


def replayed(
    records: Sequence[Record], limits: dict[str, Any], keys: dict[str, KeyLimits] | None = None, **sections: Any
) -> list[Verdict]:
    """The verdicts, in the order in which the requests began."""
    model = {"backends": ({"url": "http://a"},), "price_per_million_tokens": {"input": 1, "output": 2}}
    config = Config.model_validate({"models": {"llama": model}, "rate_limits": {"standard": limits}, **sections})

    async def run() -> list[Verdict]:
        replay = Replay(Plans(config, lease_ttl_ms=LEASE_TTL_MS), keys or {})
        return [verdict async for verdict in replay.run(map(logged, records))]

    return sorted(asyncio.run(run()), key=lambda verdict: verdict.record.start_ms)


def limited(*arguments: Any, **more: Any) -> list[str | None]:
    return [verdict.limit for verdict in replayed(*arguments, **more)]


def test_who_asks_too_often_would_be_refused_and_by_what() -> None:
    records = [record(i) for i in range(4)] + [record(4, user_id="bob"), record(61)]
    assert limited(records, {"requests_per_minute": 2}) == [
        None,
        None,
        "requests_per_minute",
        "requests_per_minute",
        None,
        None,
    ], "a refused request consumes nothing"


def test_tokens_are_reserved_by_size_and_settled_at_the_end() -> None:
    def used(after_s: float) -> Record:
        return record(after_s, bytes_in=400, prompt_tokens=100, completion_tokens=100, duration_ms=1000)

    # 612 are held back while a request runs (400 bytes, and an answer of unknown length), 200 stay.
    limits = {"tokens_per_day": 1000}
    assert limited([used(0), used(0.999)], limits) == [None, "tokens_per_day"]
    assert limited([used(0), used(1)], limits) == [None, None]
    assert limited([used(i * 2) for i in range(4)], limits) == [None, None, "tokens_per_day", "tokens_per_day"]


def test_what_the_log_says_a_request_asked_for_is_what_it_reserves() -> None:
    def asked(after_s: float, **asks: int | None) -> Record:
        return record(after_s, bytes_in=4000, prompt_tokens=1, completion_tokens=1, duration_ms=1000, **asks)

    small = {"max_tokens": 90, "n": 1, "prompt_bytes": 40, "images": 0}
    limits = {"tokens_per_day": 1000}
    assert limited([asked(i / 100, **small) for i in range(11)], limits) == [None] * 10 + ["tokens_per_day"]
    assert limited([asked(0, **{**small, "n": 12}), asked(0.5, **small)], limits) == ["tokens_per_day", None]
    generates_nothing = {"max_tokens": 0, "n": 1, "prompt_bytes": 40, "images": 0}
    assert limited([asked(0, **generates_nothing)], {"output_tokens_per_day": 1}) == [None]


def test_answers_that_nobody_counted_are_charged_by_their_size() -> None:
    bare = {"prompt_tokens": None, "completion_tokens": None, "duration_ms": 1, "bytes_out": 4000}
    small = {"max_tokens": 90, "n": 1, "prompt_bytes": 40, "images": 0}
    records = [record(0, **bare, **small), record(1, **small), record(2, aborted=True, **bare, **small)]
    assert limited(records, {"tokens_per_day": 1099}) == [None, "tokens_per_day", "tokens_per_day"]
    assert limited(records, {"tokens_per_day": 1110 + 42}) == [None, None, None]


def test_without_max_tokens_a_request_reserves_what_is_usual() -> None:
    unsaid = {"max_tokens": None, "n": 1, "prompt_bytes": 0, "images": 0, "prompt_tokens": 0, "completion_tokens": 20}
    one_by_one = [record(i, duration_ms=1, **unsaid) for i in range(5)]
    at_once = [record(20, duration_ms=60_000, **unsaid) for _ in range(10)]
    assert limited(one_by_one + at_once, {"tokens_per_day": 700}) == [None] * 15
    assert limited(one_by_one[:4] + at_once[:2], {"tokens_per_day": 700}) == [None] * 5 + ["tokens_per_day"]


def test_running_requests_hold_their_leases_until_they_end() -> None:
    records = [record(0, duration_ms=3_600_000), record(1800, duration_ms=1), record(3601, duration_ms=1)]
    assert limited(records, {"concurrent_requests": 1}) == [None, "concurrent_requests", None]


def test_a_request_waits_a_moment_for_the_end_of_another() -> None:
    records = [record(0, duration_ms=1000), record(0.9, duration_ms=1000), record(1.5, duration_ms=1000)]
    assert limited(records, {"concurrent_requests": 1}) == [None, None, "concurrent_requests"]


def test_money_is_spent_as_the_models_are_priced_now() -> None:
    records = [record(i, prompt_tokens=100, completion_tokens=50, cost_usd=None, duration_ms=1) for i in range(4)]
    verdicts = limited(records, {"budget_usd_per_month": 0.0015})  # 200 millionths a request, 1124 while it runs
    assert verdicts == [None, None, "budget_usd_per_month", "budget_usd_per_month"]


def test_limits_of_teams_users_and_keys_hold_too() -> None:
    records = [record(i, user_id=user) for i, user in enumerate(["alice", "bob", "alice"])]
    teams = {"search": {"limits": {"requests_per_day": 1}}}
    users = {"alice": {"limits": {"requests_per_day": 1}}}
    keys = {"k1": KeyLimits('{"requests_per_day":2}', "")}
    assert limited(records, {}, teams=teams) == [None, "team_requests_per_day", "team_requests_per_day"]
    assert limited(records, {}, users=users) == [None, None, "user_requests_per_day"]
    assert limited(records, {}, keys) == [None, None, "key_requests_per_day"]


def test_what_was_refused_is_asked_again_and_may_pass() -> None:
    verdicts = replayed([record(), refused(1), refused(2)], {"requests_per_minute": 2})
    assert [verdict.limit for verdict in verdicts] == [None, None, "requests_per_minute"]
    tally = Tally()
    for verdict in verdicts:
        tally.add(verdict)
    assert (tally.were_refused, tally.newly, tally.no_more) == (2, 0, 1)


def test_what_was_refused_would_have_run_as_long_as_the_request_before_it() -> None:
    records = [record(0, duration_ms=9000), refused(10), record(18, duration_ms=1), record(19.1, duration_ms=1)]
    assert limited(records, {"concurrent_requests": 1}) == [None, None, "concurrent_requests", None]


def test_shadow_limits_refuse_nobody_and_are_told_of() -> None:
    verdicts = replayed([record(), record(1)], {"requests_per_minute": 1, "shadow": True})
    assert [(verdict.limit, verdict.shadows) for verdict in verdicts] == [(None, ()), (None, ("requests_per_minute",))]


@pytest.mark.parametrize(
    "other",
    [
        {"user_id": None, "status": 401, "error_code": "invalid_api_key"},
        {"status": 403, "error_code": "model_not_allowed"},
        {"status": 413, "error_code": "request_too_large"},
        {"status": 413, "error_code": "too_many_values"},
        {"status": 400, "error_code": "invalid_json"},
        {"status": 400, "error_code": "invalid_value"},
        {"status": 400, "error_code": "missing_model"},
        {"endpoint": "/v1/models", "method": "GET"},
        {"status": 0, "attempts": 0, "flags": "DC"},
    ],
)
def test_requests_that_never_came_to_the_limits_are_left_out(other: dict[str, Any]) -> None:
    assert len(replayed([record(0, **other), record(1)], {"requests_per_minute": 1})) == 1


def test_two_requests_with_one_id_are_two_requests() -> None:
    records = [record(0, duration_ms=5000), record(1, duration_ms=5000)]
    assert limited(records, {"concurrent_requests": 1}) == [None, "concurrent_requests"]


@given(
    status=st.sampled_from([0, 200, 400, 429, 500]),
    prompt=st.none() | st.integers(0, 100),
    completion=st.none() | st.integers(0, 100),
    endpoint=st.sampled_from(ENDPOINTS),
)
def test_what_counts_as_used_is_what_the_limiter_is_told(
    status: int, prompt: int | None, completion: int | None, endpoint: str
) -> None:
    each = record(status=status, prompt_tokens=prompt, completion_tokens=completion, endpoint=endpoint)
    told, used = settlement(each), logged(each).used(Tokens(7, 8))
    assert told is not None
    assert (told.counted or told.complete) == (used is not None)
    assert (told.complete and told.HasField("output_tokens")) == metering.teaches(logged(each))
    if used and told.counted:
        prompt_tokens = told.input_tokens if told.HasField("input_tokens") else 7
        assert (prompt_tokens, told.output_tokens, told.cached_tokens) == (used.input, used.output, used.cached)


@given(
    starts=st.lists(st.tuples(st.integers(0, 5 * 60_000), st.sampled_from(["a", "b", "c"])), max_size=60),
    amount=st.integers(1, 5),
)
def test_of_fixed_windows_all_are_refused_above_the_amount(starts: list[tuple[int, str]], amount: int) -> None:
    records = [record(ms / 1000, user_id=user) for ms, user in sorted(starts)]
    verdicts = replayed(records, {"algorithm": "fixed_window", "requests_per_minute": amount})
    asked = Counter((each.user_id, each.time.replace(second=0, microsecond=0)) for each in records)
    assert len(verdicts) == len(records)
    assert sum(verdict.limit is not None for verdict in verdicts) == sum(max(0, n - amount) for n in asked.values())


class TestTally:
    def fields(self) -> dict[str, Any]:
        tally = Tally()
        records = [record(i, user_id=user) for i, user in enumerate(["alice"] * 3 + ["bob"] * 4 + ["carol"])]
        for verdict in replayed(records, {"requests_per_minute": 2}):
            tally.add(verdict)
        return tally.fields()

    def test_it_says_how_many_and_when(self) -> None:
        said = self.fields()
        assert (said["requests"], said["refused"], said["share"]) == (8, 3, 0.375)
        assert (said["first"], said["last"]) == ("2026-11-01T12:00:02.000+00:00", "2026-11-01T12:00:06.000+00:00")
        (limit,) = said["limits"]
        assert (limit["limit"], limit["refused"], limit["share"]) == ("requests_per_minute", 3, 0.375)

    def test_it_names_who_was_refused_most_first(self) -> None:
        users = [(user["user"], user["requests"], user["refused"], user["limits"]) for user in self.fields()["users"]]
        assert users == [("bob", 4, 2, {"requests_per_minute": 2}), ("alice", 3, 1, {"requests_per_minute": 1})]

    def test_when_nobody_is_refused_it_says_so(self) -> None:
        said = Tally().fields()
        assert (said["requests"], said["refused"], said["first"], said["share"], said["users"]) == (0, 0, None, 0.0, [])
