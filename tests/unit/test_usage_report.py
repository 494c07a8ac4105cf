"""Who used what: sums over real request logs, whatever stands between their lines."""

import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accesslog_service.record import Record
from gatehouse.usage_report.answer import Row, Stray
from gatehouse.usage_report.log_files import NoLogsError, logs_in, named, since
from gatehouse.usage_report.question import DIMENSIONS, Question
from gatehouse.usage_report.run import UnreadableLogsError, reported
from testkit.request_logs import START, record, refused, written


def asked(question: Question, *files: Path) -> tuple[list[Row], Row, list[Stray]]:
    with reported(question, files, lambda _: None) as report:
        return list(report.rows()), report.total(), report.strays()


def groups(question: Question, *files: Path) -> list[tuple[str | int | None, ...]]:
    return [row.group for row in asked(question, *files)[0]]


def log(folder: Path, *records: Record, tail: bytes = b"") -> Path:
    return written(folder / "requests_2026-11-01.log", records, tail)


class TestSums:
    def test_each_user_and_model_has_a_row_the_busiest_first(self, tmp_path: Path) -> None:
        file = log(
            tmp_path,
            record(),
            record(1, user_id="bob", model="qwen", prompt_tokens=100),
            record(2, ttft_ms=None, stream=False),
            record(3, status=503, error_code="backend_unavailable", prompt_tokens=None, completion_tokens=None),
            refused(4),
        )
        rows, total, strays = asked(Question(("user", "model")), file)
        assert [row.group for row in rows] == [("bob", "qwen"), ("alice", "llama")]
        alice = rows[1]
        assert (alice.requests, alice.errors, alice.limited) == (4, 1, 1), "a refusal by a limit is no error"
        assert (alice.prompt_tokens, alice.completion_tokens, alice.cached_tokens) == (24, 60, 24)
        assert alice.cost_usd == 0.000126
        assert (total.requests, total.tokens, total.cost_micro_usd) == (5, 214, 168)
        assert strays == []

    def test_an_error_inside_an_answer_is_an_error(self, tmp_path: Path) -> None:
        _, total, _ = asked(Question(), log(tmp_path, record(), record(1, error_code="upstream_error")))
        assert (total.requests, total.errors, total.limited) == (2, 1, 0)

    def test_lines_of_older_versions_are_summed_beside_newer_ones(self, tmp_path: Path) -> None:
        newer = record(1, max_tokens=300, n=2, prompt_bytes=1240, images=0)
        older = record().line().replace(b',"max_tokens":null,"n":null,"prompt_bytes":null,"images":null', b"")
        assert b"images" not in older
        for lines in ((older, newer.line()), (newer.line(), older)):
            _, total, strays = asked(Question(), log(tmp_path, tail=b"".join(lines)))
            assert (total.requests, total.prompt_tokens, strays) == (2, 24, [])

    def test_without_dimensions_there_is_the_total_alone(self, tmp_path: Path) -> None:
        rows, total, _ = asked(Question(), log(tmp_path, record(), record(1)))
        assert rows == [total]
        assert total.requests == 2

    def test_nothing_comes_to_nothing(self, tmp_path: Path) -> None:
        rows, total, _ = asked(Question(("user",)), log(tmp_path))
        assert rows == []
        assert (total.requests, total.tokens, total.cost_usd, total.ttft_p50_ms) == (0, 0, 0.0, None)

    def test_every_dimension_can_be_summed_by(self, tmp_path: Path) -> None:
        rows, _, _ = asked(Question(DIMENSIONS), log(tmp_path, record(status=404, error_code="model_not_found")))
        assert dict(zip(DIMENSIONS, rows[0].group, strict=True)) == {
            "user": "alice",
            "team": "search",
            "tier": "standard",
            "model": "llama",
            "key": "k1",
            "endpoint": "/v1/chat/completions",
            "status": 404,
            "day": "2026-11-01",
            "hour": "2026-11-01T12:00Z",
            "backend": "10.0.0.7:8100",
        }

    def test_requests_of_nobody_have_a_row_too(self, tmp_path: Path) -> None:
        file = log(tmp_path, record(), record(1, user_id=None, status=401))
        assert groups(Question(("user",)), file) == [("alice",), (None,)]

    def test_days_are_utc_and_come_in_their_order(self, tmp_path: Path) -> None:
        late = timedelta(hours=11, minutes=59, seconds=59.999).total_seconds()
        file = log(tmp_path, record(late + 0.001, prompt_tokens=10**6), record(late), record(86400 * 3))
        assert groups(Question(("day",)), file) == [("2026-11-01",), ("2026-11-02",), ("2026-11-04",)]

    def test_a_time_with_another_offset_is_the_moment_it_says(self, tmp_path: Path) -> None:
        line = record().line().replace(b"T12:00:00.000+00:00", b"T01:00:00.000+05:00")
        assert groups(Question(("day", "hour")), log(tmp_path, tail=line)) == [("2026-10-31", "2026-10-31T20:00Z")]

    def test_rows_can_be_sorted_by_another_measure(self, tmp_path: Path) -> None:
        file = log(tmp_path, record(prompt_tokens=1000), record(1, user_id="bob"), record(2, user_id="bob"))
        assert groups(Question(("user",)), file) == [("alice",), ("bob",)]
        assert groups(Question(("user",), measure="requests"), file) == [("bob",), ("alice",)]

    def test_percentiles_are_within_one_per_cent(self, tmp_path: Path) -> None:
        file = log(tmp_path, *(record(i, ttft_ms=float(i), duration_ms=i * 10.0) for i in range(1, 201)))
        (row,), total, _ = asked(Question(("user",)), file)
        for said, true in (
            (row.ttft_p50_ms, 100),
            (row.ttft_p95_ms, 190),
            (row.duration_p50_ms, 1000),
            (total.duration_p95_ms, 1900),
        ):
            assert said == pytest.approx(true, rel=0.01)


class TestQuestions:
    def test_only_what_is_asked_for_is_summed(self, tmp_path: Path) -> None:
        file = log(tmp_path, *(record(i, user_id=f"u{i}", team=f"t{i % 2}", model=f"m{i % 3}") for i in range(6)))
        assert groups(Question(("user",), only={"user": ("u1", "u4")}), file) == [("u1",), ("u4",)]
        assert groups(Question(("user",), only={"team": ("t0",), "model": ("m0",)}), file) == [("u0",)]

    def test_since_counts_and_until_does_not(self, tmp_path: Path) -> None:
        file = log(tmp_path, *(record(i, user_id=f"u{i}") for i in range(4)))
        bounds = START + timedelta(seconds=1), START + timedelta(seconds=3)
        assert groups(Question(("user",), *bounds), file) == [("u1",), ("u2",)]

    @pytest.mark.parametrize(
        "name", ["'; DROP TABLE counted; --", "x' OR '1'='1", '"', "$only0", "alice\x00", "%", "\\", "{}"]
    )
    def test_what_is_asked_for_is_never_sql(self, tmp_path: Path, name: str) -> None:
        file = log(tmp_path, record(user_id=name), record(1))
        assert groups(Question(("user",), only={"user": (name,)}), file) == [(name,)]

    @pytest.mark.parametrize("name", ["usr", "1; SELECT 1", "request_id"])
    def test_an_unknown_dimension_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"not summed by '{name}'"):
            Question((name,))
        with pytest.raises(ValueError, match="not summed by"):
            Question(only={name: ("x",)})

    def test_an_unknown_measure_is_refused_with_the_nearest_one(self) -> None:
        with pytest.raises(ValueError, match="did you mean 'requests'"):
            Question(("user",), measure="request")

    def test_a_dimension_named_twice_is_refused(self) -> None:
        with pytest.raises(ValueError, match="twice"):
            Question(("user", "user"))


class TestStrayLines:
    def test_they_are_skipped_and_counted_by_file(self, tmp_path: Path) -> None:
        tail = (
            b'Traceback (most recent call last):\n[1,2]\n"x"\nnull\n7\n{"a":1}\n\n\xff\xfe\x00\n' + record().line()[:70]
        )
        good = written(tmp_path / "requests_2026-11-02.log", [record()])
        rows, total, strays = asked(Question(("user",)), log(tmp_path, record(), tail=tail), good)
        assert (len(rows), total.requests) == (1, 2)
        assert strays == [Stray(str(tmp_path / "requests_2026-11-01.log"), 8)]

    def test_they_are_counted_whatever_is_asked_for(self, tmp_path: Path) -> None:
        question = Question(("day",), only={"user": ("nobody",)})
        rows, _, strays = asked(question, log(tmp_path, record(), tail=b"half a li"))
        assert (rows, [stray.lines for stray in strays]) == ([], [1])

    def test_a_field_that_makes_no_sense_counts_nothing(self, tmp_path: Path) -> None:
        tail = record().line().replace(b'"prompt_tokens":12', b'"prompt_tokens":"many"').replace(b"4.2e-05", b"1e300")
        _, total, _ = asked(Question(), log(tmp_path, tail=tail))
        assert (total.requests, total.prompt_tokens, total.completion_tokens, total.cost_usd) == (1, 0, 30, 0)

    def test_zeros_of_a_crash_do_not_hide_what_comes_after(self, tmp_path: Path) -> None:
        tail = bytes(1_000_000) + b"\n" + record().line()
        _, total, strays = asked(Question(), log(tmp_path, record(), tail=tail))
        assert (total.requests, [stray.lines for stray in strays]) == (2, [1])


class TestFiles:
    def test_compressed_logs_are_read_as_they_are(self, tmp_path: Path) -> None:
        written(tmp_path / "requests_2026-11-01.log.gz", [record(), record(1)])
        written(tmp_path / "requests_2026-11-02.log", [record(2)])
        _, total, _ = asked(Question(), *logs_in(tmp_path))
        assert total.requests == 3

    @pytest.mark.skipif(not shutil.which("zstd"), reason="needs the zstd program to make a .zst")
    def test_so_are_those_of_zstandard(self, tmp_path: Path) -> None:
        subprocess.run(["zstd", "-q", "--rm", log(tmp_path, record(), record(1))], check=True)
        assert asked(Question(), *logs_in(tmp_path))[1].requests == 2

    def test_a_day_that_is_just_being_compressed_counts_once(self, tmp_path: Path) -> None:
        plain = log(tmp_path, record())
        plain.with_suffix(".log.gz").write_bytes(b"\x1f\x8b half")
        assert logs_in(tmp_path) == [plain]

    def test_parts_of_a_day_are_read_too(self, tmp_path: Path) -> None:
        names = ["requests_2026-11-01.1.log.gz", "requests_2026-11-01.2.log", "requests_2026-11-01.log"]
        for name in names:
            (tmp_path / name).touch()
        assert [path.name for path in logs_in(tmp_path)] == names
        assert since(logs_in(tmp_path), datetime(2026, 11, 1, tzinfo=UTC)) == logs_in(tmp_path)

    def test_other_files_are_no_request_logs(self, tmp_path: Path) -> None:
        (tmp_path / "app_2026-11-01.log").write_text("{}")
        (tmp_path / "requests_2026-11-01.log.1").write_text("{}")
        with pytest.raises(NoLogsError, match="no request logs in"):
            logs_in(tmp_path)

    def test_a_file_named_twice_counts_once(self, tmp_path: Path) -> None:
        file = log(tmp_path, record())
        assert named([file, tmp_path, tmp_path / "." / file.name]) == [file]

    def test_a_file_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(NoLogsError, match=r"gone\.log is not there"):
            named([tmp_path / "gone.log"])

    @pytest.mark.parametrize("name", ["a*b", "[x]", "what?", "s3:", "it's", "{a,b}", "ü"])
    def test_a_path_is_no_pattern_and_no_address(self, tmp_path: Path, name: str) -> None:
        for folder in (name, "x", "aXb", "whats"):
            (tmp_path / folder).mkdir()
            log(tmp_path / folder, record(user_id=folder))
        assert groups(Question(("user",)), tmp_path / name / "requests_2026-11-01.log") == [(name,)]

    def test_days_before_the_period_are_not_even_read(self, tmp_path: Path) -> None:
        files = [tmp_path / f"requests_2026-11-0{day}.log" for day in (1, 2, 3)]
        other = tmp_path / "saved.log"
        assert since([*files, other], datetime(2026, 11, 2, 23, tzinfo=UTC)) == [*files[1:], other]
        assert since(files, datetime(2027, 1, 1, tzinfo=UTC)) == files[-1:]
        assert since(files, None) == files

    def test_a_cut_archive_is_named(self, tmp_path: Path) -> None:
        file = written(tmp_path / "requests_2026-11-01.log.gz", [record(i, user_id=f"u{i}") for i in range(100)])
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(UnreadableLogsError, match=r"requests_2026-11-01\.log\.gz; leave it out"):
            asked(Question(), file)

    def test_a_line_too_long_for_a_record_is_named_with_its_file(self, tmp_path: Path) -> None:
        with pytest.raises(UnreadableLogsError, match=r"requests_2026-11-01\.log.*more than 16 MB"):
            asked(Question(), log(tmp_path, tail=b"x" * 40_000_000 + b"\n"))


_few = st.sampled_from([None, "", "a", "b", "=1", "…"])
_count = st.none() | st.integers(0, 10**9)
_records = st.builds(
    record,
    after_s=st.integers(0, 3 * 86400 * 1000).map(lambda ms: ms / 1000),
    user_id=_few,
    team=_few,
    model=_few,
    status=st.sampled_from([0, 200, 400, 429, 503]),
    limited_by=st.sampled_from([None, "requests_per_minute"]),
    prompt_tokens=_count,
    completion_tokens=_count,
    cached_tokens=_count,
    cost_usd=st.none() | st.integers(0, 10**9).map(lambda micro: micro / 1e6),
    ttft_ms=st.none() | st.floats(0, 1e6),
)
_question = st.lists(st.sampled_from(["user", "team", "model", "status", "day"]), unique=True, max_size=3).map(tuple)


@settings(max_examples=30)
@given(records=st.lists(_records, max_size=40), by=_question)
def test_sums_are_those_of_plain_addition(
    tmp_path_factory: pytest.TempPathFactory, records: list[Record], by: tuple[str, ...]
) -> None:
    folder = tmp_path_factory.mktemp("logs")
    half = len(records) // 2
    files = written(folder / "a.log", records[:half]), written(folder / "b.log.gz", records[half:], b"{half")
    rows, total, _ = asked(Question(by), *files)
    assert {row.group: sums(row) for row in rows} == added(records, by)
    assert sums(total) == added(records, ())[()]


def sums(row: Row) -> tuple[int, ...]:
    counts = row.requests, row.errors, row.limited
    return *counts, row.prompt_tokens, row.completion_tokens, row.cached_tokens, row.cost_micro_usd


def added(records: Sequence[Record], by: tuple[str, ...]) -> dict[tuple[object, ...], tuple[int, ...]]:
    found: dict[tuple[object, ...], tuple[int, ...]] = {} if by else {(): (0,) * 7}
    fields = {"user": "user_id", "day": "time"}
    for each in records:
        values = (getattr(each, fields.get(name, name)) for name in by)
        group = tuple(str(value.date()) if isinstance(value, datetime) else value for value in values)
        failed, limited = each.status >= 400, each.limited_by is not None
        tokens = each.prompt_tokens or 0, each.completion_tokens or 0, each.cached_tokens or 0
        one = 1, int(failed and not limited), int(limited), *tokens, round((each.cost_usd or 0) * 1e6)
        found[group] = tuple(map(sum, zip(found.get(group, (0,) * 7), one, strict=True)))
    return found
