"""A record is one line of JSON, whatever its texts hold."""

import json
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from accesslog_service.record import NAMES, Record
from testkit.request_logs import record

RECORD = record(0.25, completion_tokens=31, cost_usd=None)


def test_a_line_has_the_fields_of_the_contract_in_its_order() -> None:
    assert ", ".join(json.loads(RECORD.line())) == (
        "time, request_id, trace_id, user_id, team, tier, key_id, method, endpoint, model, backend, status, "
        "error_code, stream, prompt_tokens, completion_tokens, cached_tokens, cost_usd, duration_ms, ttft_ms, "
        "attempts, bytes_in, bytes_out, client_ip, user_agent, limited_by, flags, aborted, max_tokens, n, "
        "prompt_bytes, images"
    )


def test_a_line_holds_the_record() -> None:
    line = json.loads(RECORD.line())
    assert line["time"] == "2026-11-01T12:00:00.250+00:00"
    assert [line[name] for name in NAMES[1:]] == [getattr(RECORD, name) for name in NAMES[1:]]


@given(text=st.text())
@example('","status":200}\n{"time":"')
@example("\x1b[31mred\u2028\u2029\x85\r\n")
def test_f37_no_text_can_forge_a_line_or_a_field(text: str) -> None:
    forged = replace(RECORD, model=text, user_agent=text, endpoint=text, user_id=text)
    line = forged.line()
    assert line.isascii()
    assert line.decode().splitlines(keepends=True) == [line.decode()]
    assert b"\x1b" not in line
    assert json.loads(line) == json.loads(RECORD.line()) | dict.fromkeys(
        ("model", "user_agent", "endpoint", "user_id"), text
    )


def test_time_per_output_token_counts_the_tokens_after_the_first() -> None:
    assert RECORD.tpot_ms == (900 - 300) / 30


@pytest.mark.parametrize(
    "record",
    [
        replace(RECORD, stream=False),
        replace(RECORD, completion_tokens=1),
        replace(RECORD, completion_tokens=None),
        replace(RECORD, ttft_ms=None),
    ],
)
def test_an_answer_in_one_piece_has_no_time_per_output_token(record: Record) -> None:
    assert record.tpot_ms is None
