"""Request logs as accesslog_service writes them, for tests of what reads them."""

import gzip
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from accesslog_service.record import Record

START = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)

_RECORD = Record(
    time=START,
    request_id="6f1c",
    trace_id=None,
    user_id="alice",
    team="search",
    tier="standard",
    key_id="k1",
    method="POST",
    endpoint="/v1/chat/completions",
    model="llama",
    backend="10.0.0.7:8100",
    status=200,
    error_code=None,
    stream=True,
    prompt_tokens=12,
    completion_tokens=30,
    cached_tokens=8,
    cost_usd=0.000042,
    duration_ms=900.0,
    ttft_ms=300.0,
    attempts=1,
    bytes_in=400,
    bytes_out=5000,
    client_ip="192.0.2.1",
    user_agent="curl/8",
    limited_by=None,
    flags="",
    aborted=False,
)


def record(after_s: float = 0, **fields: Any) -> Record:
    """The record of a usual request that began `after_s` seconds after `START`, but for `fields`."""
    return replace(_RECORD, time=START + timedelta(seconds=after_s), **fields)


def refused(after_s: float = 0, limit: str = "requests_per_minute", **fields: Any) -> Record:
    """The record of a request that a limit refused."""
    unknown = dict.fromkeys(("prompt_tokens", "completion_tokens", "cached_tokens", "cost_usd", "ttft_ms", "backend"))
    answer = {"status": 429, "error_code": "rate_limit_exceeded", "limited_by": limit}
    return record(after_s, **{**unknown, **answer, "duration_ms": 1.0, "attempts": 0, **fields})


def written(file: Path, records: Iterable[Record], tail: bytes = b"") -> Path:
    """`file`, holding `records` and then `tail`; compressed if it is named so."""
    text = b"".join(each.line() for each in records) + tail
    file.write_bytes(gzip.compress(text) if file.suffix == ".gz" else text)
    return file
