"""What the request log has lost comes back from Envoy's own log: once, on its day, as it would have been."""

import gzip
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accesslog_service.entry import record
from accesslog_service.reconcile import compare
from accesslog_service.reconcile.compare import Reconciliation, Report
from accesslog_service.reconcile.envoy_line import UnreadableLineError, entry_of
from accesslog_service.record import Record
from gatehouse.files.daily_file import DailyFile

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)


def request_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


def line(number: int = 0, *, time: datetime = NOON, **fields: Any) -> dict[str, Any]:
    """What Envoy writes of a streamed answer that took two seconds."""
    return {
        "attempts": 1,
        "bytes_in": 102,
        "bytes_out": 2153,
        "caller": {"user": "alice", "team": "", "tier": "premium", "key_id": "k1", "error_code": None},
        "client_ip": "192.0.2.1",
        "cluster": "model:m",
        "details": "via_upstream",
        "duration_ms": 2000,
        "flags": "-",
        "limits": None,
        "llm": {"model": "m", "stream": True, "input_tokens": 5, "output_tokens": 7, "cached_tokens": 2},
        "method": "POST",
        "path": "/v1/chat/completions",
        "request_id": request_id(number),
        "route": "model:m",
        "status": 200,
        "stream": {"first_event_ms": time.timestamp() * 1000 + 300, "keep_final": False},
        "time": time.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "ttft_ms": 250,
        "upstream": "10.0.0.7:8100",
        "user_agent": "OpenAI/Python 1.50.0",
        **fields,
    }


def restored(number: int = 0, **fields: Any) -> Record:
    return record(entry_of(line(number, **fields)), None)


def write(directory: Path, *lines: dict[str, Any], name: str = "envoy_access.log") -> Path:
    path = directory / name
    path.write_text("".join(json.dumps(each, separators=(",", ":")) + "\n" for each in lines))
    return path


def reconciled(directory: Path, *, now: datetime = LATER, told: list[Record] | None = None, **options: Any) -> Report:
    def tell(records: Sequence[Record]) -> tuple[int, int]:
        if told is not None:
            told.extend(records)
        return len(records), 0

    days = DailyFile(directory, "requests", 30)
    to_record = partial(record, default_model=None)
    options.setdefault("progress", lambda share: None)
    report = Reconciliation(directory, days, to_record, tell, **options).run(now)
    days.close()
    return report


def ids(directory: Path, day: str = "2026-11-01") -> list[str]:
    path = directory / f"requests_{day}.log"
    return [json.loads(each)["request_id"] for each in path.read_text().splitlines()] if path.exists() else []


def known(directory: Path, *numbers: int, day: str = "2026-11-01") -> Path:
    path = directory / f"requests_{day}.log"
    path.write_bytes(b"".join(restored(number).line() for number in numbers))
    return path


def test_a_restored_record_says_what_the_lost_one_said() -> None:
    assert restored() == Record(
        time=NOON,
        request_id=request_id(0),
        trace_id="0af7651916cd43dd8448eb211c80319c",
        user_id="alice",
        team=None,
        tier="premium",
        key_id="k1",
        method="POST",
        endpoint="/v1/chat/completions",
        model="m",
        backend="10.0.0.7:8100",
        status=200,
        error_code=None,
        stream=True,
        prompt_tokens=5,
        completion_tokens=7,
        cached_tokens=2,
        cost_usd=None,
        duration_ms=2000.0,
        ttft_ms=300.0,
        attempts=1,
        bytes_in=102,
        bytes_out=2153,
        client_ip="192.0.2.1",
        user_agent="OpenAI/Python 1.50.0",
        limited_by=None,
        flags="",
        aborted=False,
    )


def test_a_line_of_this_version_has_all_in_one_place() -> None:
    llm: dict[str, Any] = {"model": "m", "stream": True, "input_tokens": 14, "output_tokens": 7, "cached_tokens": 2}
    llm |= {"asks": "300/2/1240/1", "first_event_ms": NOON.timestamp() * 1000 + 300}
    newer = line(llm=llm)
    del newer["stream"]
    found = record(entry_of(newer), None)
    assert (found.max_tokens, found.n, found.prompt_bytes, found.images) == (300, 2, 1240, 1)
    assert (found.asks, found.ttft_ms, found.prompt_tokens, found.stream) == ("300/2/1240/1", 300.0, 14, True)
    assert restored(llm=llm | {"error": "out of memory"}).error_code == "upstream_error"
    refused = restored(llm={"refused": "too_many_values"}, status=413, cluster=None)
    assert (refused.error_code, refused.model) == ("too_many_values", "")


def test_lines_of_older_versions_are_read_too() -> None:
    cached = {"model": "m", "input_tokens": 5, "cache_read_tokens": 8, "cache_written_tokens": 1}
    assert (restored(llm=cached).prompt_tokens, restored(llm=cached).cached_tokens) == (14, 8)
    assert restored(llm={"model": "__error__"}).model == ""
    assert record(entry_of(line(llm={"model": "__missing__"})), "m").model == "m"
    assert restored(llm={"model": "m", "max_tokens": "300"}).max_tokens is None


def test_refusals_cuts_and_oddities_come_back_too() -> None:
    refused = restored(status=429, limits={"limited_by": "requests_per_minute", "error_code": "rate_limit_exceeded"})
    assert (refused.limited_by, refused.error_code) == ("requests_per_minute", "rate_limit_exceeded")
    assert (restored(flags="DC").flags, restored(flags="DC").aborted) == ("DC", True)
    assert restored(flags="UAEX,NOVEL", status=401).flags == "UAEX"
    assert restored(method="PROPFIND").method == ""
    assert restored(upstream="[fd00::7]:8100").backend == "[fd00::7]:8100"
    assert restored(caller={"user": "a", "key_limits": "{}", "key_family": "k0"}).key_family == "k0"


def test_what_is_missing_is_restored_and_told_to_the_limiter_once(tmp_path: Path) -> None:
    write(tmp_path, *map(line, range(10)))
    known(tmp_path, 0, 1, 2, 7)
    told: list[Record] = []
    first, again = reconciled(tmp_path, told=told), reconciled(tmp_path, told=told)
    assert (first.compared, first.restored, first.settled) == (10, 6, 6)
    assert (again.compared, again.restored) == (10, 0)
    assert sorted(ids(tmp_path)) == [request_id(number) for number in range(10)]
    assert [each.request_id for each in told] == [request_id(number) for number in (3, 4, 5, 6, 8, 9)]


@pytest.mark.parametrize("at_once", [1, 2, 3, 7, 100])
def test_memory_is_bounded_by_working_in_parts(tmp_path: Path, at_once: int) -> None:
    write(tmp_path, *map(line, range(20)))
    known(tmp_path, *range(0, 20, 3))
    assert reconciled(tmp_path, at_once=at_once).restored == 13
    assert sorted(ids(tmp_path)) == [request_id(number) for number in range(20)]


def test_progress_goes_from_file_to_file_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "SHOW_EVERY", 2)
    write(tmp_path, *map(line, range(4)), name="envoy_access_2026-10-31.log")
    write(tmp_path, *map(line, range(4, 8)))
    shares: list[float] = []
    assert reconciled(tmp_path, progress=shares.append).compared == 8
    assert shares == pytest.approx([0.25, 0.5, 0.5, 0.75, 1.0, 1.0], abs=0.01)


def test_each_record_goes_to_the_day_on_which_its_request_ended(tmp_path: Path) -> None:
    late = datetime(2026, 11, 1, 23, 59, 59, tzinfo=UTC)
    write(tmp_path, line(0), line(1, time=late, duration_ms=500), line(2, time=late, duration_ms=5000))
    report = reconciled(tmp_path, now=late + timedelta(hours=1))
    assert ids(tmp_path) == [request_id(0), request_id(1)]
    assert ids(tmp_path, "2026-11-02") == [request_id(2)]
    assert report.restored_by_day == {"2026-11-01": 2, "2026-11-02": 1}


def test_a_record_written_just_after_midnight_is_not_missing(tmp_path: Path) -> None:
    late = datetime(2026, 11, 1, 23, 59, 59, tzinfo=UTC)
    write(tmp_path, line(0, time=late, duration_ms=999))
    known(tmp_path, 0, day="2026-11-02")
    assert reconciled(tmp_path, now=late + timedelta(hours=1)).restored == 0


def test_what_ended_a_moment_ago_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path, line(0), line(1, time=NOON + timedelta(seconds=20)))
    report = reconciled(tmp_path, now=NOON + timedelta(seconds=2) + compare.LATE + timedelta(seconds=1))
    assert (report.restored, report.left_as_late) == (1, 1)


def test_older_days_are_left_out_with_since(tmp_path: Path) -> None:
    write(tmp_path, line(0, time=NOON - timedelta(days=1)), line(1))
    assert reconciled(tmp_path, since=date(2026, 11, 1)).compared == 1


def test_rotated_and_compressed_files_are_read_too(tmp_path: Path) -> None:
    write(tmp_path, line(0, time=NOON - timedelta(days=2)), name="envoy_access_2026-10-30.log")
    plain = write(tmp_path, line(1, time=NOON - timedelta(days=1)), name="packed")
    with gzip.open(tmp_path / "envoy_access_2026-10-31.log.gz", "wb") as file:
        file.write(plain.read_bytes())
    write(tmp_path, line(2))
    with gzip.open(tmp_path / "requests_2026-11-01.log.gz", "wb") as file:
        file.write(restored(2).line())
    assert reconciled(tmp_path).restored == 2
    assert not ids(tmp_path)


def test_half_written_lines_cost_nothing_but_themselves(tmp_path: Path) -> None:
    path = write(tmp_path, *map(line, range(4)))
    whole = path.read_bytes().splitlines(keepends=True)
    broken = [whole[0], whole[1][:90] + b"\n", b"\n", b"[]\n", b'{"request_id":"x"}\n', whole[2], whole[3][:40]]
    path.write_bytes(b"".join(broken))
    report = reconciled(tmp_path)
    assert (report.restored, report.unreadable) == (2, 4)
    path.write_bytes(b"".join([*broken[:-1], whole[3]]))
    assert reconciled(tmp_path).restored == 1, "the last line has come to its end"


def test_a_record_that_was_cut_short_is_missing_and_so_is_what_ran_into_it(tmp_path: Path) -> None:
    write(tmp_path, *map(line, range(4)))
    first, second, third = (restored(number).line() for number in range(3))
    (tmp_path / "requests_2026-11-01.log").write_bytes(first + second[:99] + third + restored(3).line()[:-30])
    assert reconciled(tmp_path).restored == 3
    lines = (tmp_path / "requests_2026-11-01.log").read_bytes().splitlines()
    assert sorted(json.loads(each)["request_id"] for each in lines if _whole(each)) == sorted(
        request_id(number) for number in range(4)
    )


def _whole(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def test_what_never_became_a_request_is_restored_once_too(tmp_path: Path) -> None:
    garbage = line(0, request_id=None, path=None, method=None, status=400, cluster=None, caller=None, llm=None)
    write(tmp_path, garbage)
    assert [reconciled(tmp_path).restored for _ in range(2)] == [1, 0]


def test_an_agent_that_looks_like_a_record_is_not_taken_for_one(tmp_path: Path) -> None:
    agent = restored(5).line().decode()[:200]
    write(tmp_path, line(0, user_agent=agent, path=agent), line(5))
    assert reconciled(tmp_path).restored == 2
    assert reconciled(tmp_path).restored == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(line())), JSON, max_size=4))
def test_any_line_makes_one_record_or_is_unreadable(fields: dict[str, Any]) -> None:
    try:
        made = record(entry_of({**line(), **fields}), None)
    except UnreadableLineError:
        return
    assert made.line().count(b"\n") == 1
    assert json.loads(made.line())
