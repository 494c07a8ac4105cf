"""What the limiter is told of ended requests: nothing it does not need."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from accesslog_service.record import Record
from accesslog_service.settlements import Limiter, settlement
from gatehouse.contract.metering import NEVER_ASKED
from gatehouse.pb.settlement_pb2 import Settlement

ENDED = Record(
    time=datetime(2026, 11, 1, tzinfo=UTC),
    request_id="r-1",
    trace_id=None,
    user_id="alice",
    team=None,
    tier="free",
    key_id="k2",
    method="POST",
    endpoint="/v1/completions",
    model="m",
    backend="h:1",
    status=200,
    error_code=None,
    stream=False,
    prompt_tokens=3,
    completion_tokens=4,
    cached_tokens=None,
    cost_usd=None,
    duration_ms=1.0,
    ttft_ms=None,
    attempts=1,
    bytes_in=1,
    bytes_out=1,
    client_ip=None,
    user_agent=None,
    limited_by=None,
    flags="",
    aborted=False,
)
UNCOUNTED = replace(ENDED, prompt_tokens=None, completion_tokens=None, bytes_out=4001, asks="300/1/40/0")
LIMITED = replace(ENDED, request_id="r-2", key_limits='{"tokens_per_day":5}', key_family="k1")


def told(limiter: Limiter) -> list[str]:
    return [entry.request_id for _, entry in limiter._pending]


def limiter(**options: Any) -> Limiter:
    return Limiter([], lambda _: None, **options)


def test_a_settlement_brings_the_limits_of_its_key() -> None:
    found = settlement(LIMITED)
    assert found is not None
    assert (found.key_id, found.key_limits, found.key_family) == ("k2", '{"tokens_per_day":5}', "k1")
    bare = settlement(ENDED)
    assert bare is not None
    assert (bare.key_limits, bare.key_family) == ("", "")


def told_of(record: Record) -> Settlement:
    found = settlement(record)
    assert found is not None
    return found


def test_a_counted_answer_brings_its_counts() -> None:
    found = told_of(replace(ENDED, asks="-/1/40/0"))
    assert (found.counted, found.complete, found.input_tokens, found.output_tokens) == (True, True, 3, 4)
    assert (found.asks, found.answer_bytes) == ("-/1/40/0", 0)


def test_an_answer_that_nobody_counted_brings_its_size() -> None:
    found = told_of(UNCOUNTED)
    assert (found.counted, found.complete, found.answer_bytes, found.asks) == (False, True, 4001, "300/1/40/0")


def test_an_answer_that_was_cut_off_keeps_its_reservation() -> None:
    found = told_of(replace(UNCOUNTED, aborted=True))
    assert (found.counted, found.complete, found.answer_bytes) == (False, False, 0)


def test_an_error_inside_an_answer_is_charged_what_was_produced() -> None:
    found = told_of(replace(UNCOUNTED, error_code="upstream_error"))
    assert (found.counted, found.complete, found.HasField("input_tokens"), found.output_tokens) == (
        True,
        False,
        True,
        0,
    )
    found = told_of(replace(UNCOUNTED, error_code="upstream_error", completion_tokens=7))
    assert (found.counted, found.HasField("input_tokens"), found.output_tokens) == (True, False, 7)


@pytest.mark.parametrize("endpoint", ["/tokenize", "/detokenize"])
def test_what_uses_no_tokens_is_charged_none(endpoint: str) -> None:
    found = told_of(replace(UNCOUNTED, endpoint=endpoint))
    assert (found.counted, found.input_tokens, found.answer_bytes) == (True, 0, 0)


@pytest.mark.parametrize(
    "other",
    [
        {"user_id": None},
        {"endpoint": "/v1/models"},
        {"status": 429, "limited_by": "requests_per_minute", "error_code": "rate_limit_exceeded"},
        *({"status": 400, "error_code": code} for code in sorted(NEVER_ASKED)),
    ],
)
def test_what_was_never_admitted_is_not_settled(other: dict[str, Any]) -> None:
    assert settlement(replace(ENDED, **other)) is None


def test_where_only_keys_have_limits_only_theirs_are_settled() -> None:
    some, everyone = limiter(everyone=False), limiter(everyone=True)
    for each in (some, everyone):
        each.ended([ENDED, LIMITED])
        each.running([ENDED, LIMITED])
    assert told(some) == ["r-2", "r-2"]
    assert told(everyone) == ["r-1", "r-2"] * 2


def test_the_worker_that_admitted_a_request_without_redis_is_told_of_its_end() -> None:
    each = limiter()
    each.ended([ENDED, replace(LIMITED, leased_by=1)])
    assert [worker for worker, _ in each._pending] == [None, 1]


def test_of_a_request_whose_decision_came_too_late_nothing_stays_charged() -> None:
    """It may have been admitted after Envoy had given up."""
    told = settlement(
        replace(ENDED, status=503, error_code="limits_unavailable", prompt_tokens=None, completion_tokens=None)
    )
    assert told is not None
    assert (told.counted, told.input_tokens, told.output_tokens) == (True, 0, 0)
