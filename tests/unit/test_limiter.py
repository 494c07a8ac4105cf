"""What the limiter is told of ended requests: nothing it does not need."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from accesslog_service.limiter import Limiter, settlement
from accesslog_service.record import Record

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
