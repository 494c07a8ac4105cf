"""The tally: sums of the request log, exact whatever happens to who keeps them."""

import gzip
import os
import shutil
import sqlite3
import stat
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accesslog_service.record import Record
from gatehouse.contract.labels import Names
from portal_service.tally import live
from portal_service.tally.counting import counted
from portal_service.tally.follow import Follower
from portal_service.tally.usage import usage
from portal_service.tally.usage_db import MAX_MISTAKES, UsageDb
from tests.unit.test_record import RECORD

TODAY = date(2026, 11, 24)
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
ONE = replace(
    RECORD,
    time=NOON,
    user_id="alice",
    team="search",
    tier="standard",
    key_id="k1",
    endpoint="/v1/chat/completions",
    model="llama",
    status=200,
    error_code=None,
    stream=True,
    prompt_tokens=10,
    completion_tokens=5,
    cost_usd=0.000123,
    duration_ms=100.0,
    ttft_ms=20.0,
    limited_by=None,
)


def log_file(logs: Path, day: date = TODAY) -> Path:
    return logs / f"requests_{day}.log"


def write(logs: Path, *records: Record, day: date = TODAY) -> None:
    with log_file(logs, day).open("ab") as file:
        file.write(b"".join(record.line() for record in records))


def follower(logs: Path) -> Follower:
    return Follower(logs, UsageDb(logs / "tally.sqlite"), Names(["llama"]).label)


def used(logs: Path, user: str = "alice", key: str = "k1", today: date = TODAY) -> dict[str, Any]:
    return usage(UsageDb(logs / "tally.sqlite"), user, key, today)


def now_is(monkeypatch: pytest.MonkeyPatch, moment: datetime = NOON + timedelta(seconds=20)) -> float:
    monkeypatch.setattr(time, "time", moment.timestamp)
    return moment.timestamp()


def test_a_day_a_month_and_a_key_add_up(tmp_path: Path) -> None:
    write(tmp_path, ONE, replace(ONE, key_id="k2"), replace(ONE, user_id="bob"))
    write(tmp_path, replace(ONE, time=NOON - timedelta(days=1)), day=TODAY - timedelta(days=1))
    write(tmp_path, replace(ONE, time=NOON - timedelta(days=25)), day=TODAY - timedelta(days=25))
    follower(tmp_path).catch_up()
    found = used(tmp_path)
    assert found["today"] == {"requests": 2, "prompt_tokens": 20, "completion_tokens": 10, "cost_usd": 0.000246}
    assert found["month"]["requests"] == 3, "25 days ago was October"
    assert found["key"]["today"]["requests"] == 1
    assert found["key"]["month"]["requests"] == 2
    days = {day["date"]: day["requests"] for day in found["days"]}
    assert (len(days), sum(days.values())) == (30, 4)
    assert list(days)[-1] == "2026-11-24"
    assert (days["2026-11-24"], days["2026-11-23"], days["2026-10-30"]) == (2, 1, 1)


def test_a_day_is_that_of_the_record_not_of_the_file_it_came_into(tmp_path: Path) -> None:
    write(tmp_path, replace(ONE, time=NOON - timedelta(hours=13)))
    follower(tmp_path).catch_up()
    assert used(tmp_path)["today"]["requests"] == 0
    assert used(tmp_path)["days"][-2]["requests"] == 1


def test_without_prices_there_is_no_cost_rather_than_none_to_pay(tmp_path: Path) -> None:
    write(tmp_path, replace(ONE, cost_usd=None))
    follower(tmp_path).catch_up()
    assert used(tmp_path)["today"]["cost_usd"] is None
    write(tmp_path, ONE)
    follower(tmp_path).catch_up()
    assert used(tmp_path)["today"]["cost_usd"] == 0.000123


def test_only_requests_to_models_count(tmp_path: Path) -> None:
    write(tmp_path, replace(ONE, endpoint="/v1/usage"), replace(ONE, endpoint="/health", user_id=None))
    follower(tmp_path).catch_up()
    assert used(tmp_path)["today"]["requests"] == 0


def test_a_second_look_adds_nothing(tmp_path: Path) -> None:
    write(tmp_path, ONE)
    for _ in range(3):
        follower(tmp_path).catch_up()
    assert used(tmp_path)["today"]["requests"] == 1


def test_a_line_half_written_waits_for_its_end_and_holds_up_no_other_file(tmp_path: Path) -> None:
    line = ONE.line()
    yesterday = log_file(tmp_path, TODAY - timedelta(days=1))
    yesterday.write_bytes(line[:50])
    write(tmp_path, ONE)
    reader = follower(tmp_path)
    reader.catch_up()
    assert used(tmp_path)["today"]["requests"] == 1
    with yesterday.open("ab") as file:
        file.write(line[50:])
    reader.catch_up()
    assert used(tmp_path)["today"]["requests"] == 2


def test_what_is_restored_into_an_old_file_is_added(tmp_path: Path) -> None:
    before = TODAY - timedelta(days=2)
    write(tmp_path, replace(ONE, time=NOON - timedelta(days=2)), day=before)
    write(tmp_path, ONE)
    reader = follower(tmp_path)
    reader.catch_up()
    write(tmp_path, replace(ONE, time=NOON - timedelta(days=2)), day=before)
    reader.catch_up()
    assert used(tmp_path)["month"]["requests"] == 3


@pytest.mark.parametrize("lines", [0, 1, 5])
def test_a_file_that_was_replaced_is_counted_anew(tmp_path: Path, lines: int) -> None:
    write(tmp_path, ONE, ONE, ONE)
    reader = follower(tmp_path)
    reader.catch_up()
    new = tmp_path / "new"
    new.write_bytes(ONE.line() * lines)
    new.replace(log_file(tmp_path))
    reader.catch_up()
    if lines:
        assert used(tmp_path)["today"]["requests"] == lines


TWO = replace(ONE, request_id="another")


@pytest.mark.parametrize("how", ["rename", "compress", "copytruncate", "part"])
def test_a_log_that_is_rotated_keeps_its_sums_and_what_was_not_read_of_it_is(tmp_path: Path, how: str) -> None:
    write(tmp_path, ONE, ONE)
    reader, log, copy = follower(tmp_path), log_file(tmp_path), tmp_path / f"{log_file(tmp_path).name}.1"
    if how == "part":
        copy = log.with_name(f"{log.stem}.1.log")
    reader.catch_up()
    write(tmp_path, ONE, ONE, ONE)
    if how == "copytruncate":
        shutil.copyfile(log, copy)
        os.truncate(log, 0)
    else:
        log.rename(copy)
    if how == "compress":
        copy.with_suffix(".1.gz").write_bytes(gzip.compress(copy.read_bytes()))
        copy.unlink()
    write(tmp_path, TWO)
    reader.catch_up()
    assert used(tmp_path)["today"]["requests"] == 6
    write(tmp_path, TWO)
    reader.catch_up()
    assert used(tmp_path)["today"]["requests"] == 7


def test_a_tally_that_is_made_anew_has_all_parts_once(tmp_path: Path) -> None:
    log = log_file(tmp_path)
    for part in (1, 2):
        write(tmp_path, *[ONE] * 3_000)
        log.rename(log.with_name(f"{log.stem}.{part}.log"))
    write(tmp_path, TWO)
    reader = follower(tmp_path)
    reader.catch_up()
    assert used(tmp_path)["today"]["requests"] == 6_001
    log.rename(log.with_name(f"{log.stem}.3.log"))
    write(tmp_path, ONE, ONE)
    reader.catch_up()
    assert used(tmp_path)["today"]["requests"] == 6_003


def test_an_edited_file_after_a_rotation_is_counted_anew_by_itself(tmp_path: Path) -> None:
    write(tmp_path, ONE, ONE)
    reader, log = follower(tmp_path), log_file(tmp_path)
    reader.catch_up()
    log.rename(tmp_path / f"{log.name}.1")
    write(tmp_path, TWO, TWO, TWO)
    reader.catch_up()
    log.unlink()
    write(tmp_path, TWO)
    reader.catch_up()
    assert used(tmp_path)["today"]["requests"] == 3


def test_a_removed_log_keeps_its_sums(tmp_path: Path) -> None:
    write(tmp_path, ONE, ONE)
    reader = follower(tmp_path)
    reader.catch_up()
    log_file(tmp_path).unlink()
    write(tmp_path, TWO)
    reader.catch_up()
    assert used(tmp_path)["today"]["requests"] == 3


def test_a_removed_book_is_made_again_by_whichever_receiver(tmp_path: Path) -> None:
    write(tmp_path, ONE)
    readers = follower(tmp_path), follower(tmp_path)
    for reader in readers:
        reader.catch_up()
    for path in tmp_path.iterdir():
        path.unlink()
    write(tmp_path, TWO)
    readers[0].catch_up()
    write(tmp_path, TWO)
    readers[1].catch_up()
    assert used(tmp_path)["today"]["requests"] == 2


def test_a_clock_that_is_ahead_costs_no_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    early = replace(ONE, time=NOON - timedelta(days=23))
    write(tmp_path, early, day=early.time.date())
    write(tmp_path, ONE)
    now_is(monkeypatch)
    reader = follower(tmp_path)
    reader.catch_up()
    now_is(monkeypatch, NOON + timedelta(days=40))
    write(tmp_path, ONE)
    reader.catch_up()
    assert used(tmp_path)["month"]["requests"] == 3


def test_what_was_counted_stays_when_its_log_file_is_gone(tmp_path: Path) -> None:
    write(tmp_path, ONE)
    reader = follower(tmp_path)
    reader.catch_up()
    log_file(tmp_path).unlink()
    reader.catch_up()
    assert used(tmp_path)["today"]["requests"] == 1


def test_lines_that_are_no_records_are_passed_over_and_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log_file(tmp_path).write_bytes(b'\x00\xff\nnull\n[]\n{"endpoint": "/v1/score"}\n\n' + ONE.line())
    follower(tmp_path).catch_up()
    assert used(tmp_path)["today"]["requests"] == 1
    assert "5 lines are no records" in caplog.text


def test_files_longer_than_a_chunk_are_read_whole(tmp_path: Path) -> None:
    log_file(tmp_path).write_bytes(ONE.line() * 3000 + b"x" * 1_000_000 + b"\n" + ONE.line())
    follower(tmp_path).catch_up()
    assert used(tmp_path)["today"]["requests"] == 3001


def test_a_damaged_book_is_made_again_from_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, ONE)
    (tmp_path / "tally.sqlite").write_bytes(b"this is no database, or no more" * 100)
    follower(tmp_path).catch_up()
    assert used(tmp_path)["today"]["requests"] == 1
    assert "is damaged" in caplog.text


def test_the_book_is_not_for_everyone(tmp_path: Path) -> None:
    os.umask(before := os.umask(0))
    os.umask(0)
    try:
        reader = follower(tmp_path)
        write(tmp_path, ONE)
        reader.catch_up()
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("tally.sqlite*")}
    assert set(modes.values()) == {0o640}
    assert "tally.sqlite-wal" in modes


def test_two_receivers_count_each_line_once(tmp_path: Path) -> None:
    """They read at once while a third writes: what counts is what the log says."""
    done = threading.Event()
    others: list[str] = []

    def follow() -> None:
        reader = follower(tmp_path)
        while True:
            last = done.is_set()
            try:
                reader.catch_up()
            except sqlite3.OperationalError as error:
                others.append(error.sqlite_errorname)
                continue
            if last:
                return

    readers = [threading.Thread(target=follow) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(200):
        write(tmp_path, *[ONE] * 7)
    done.set()
    for reader in readers:
        reader.join(30)
    assert used(tmp_path)["today"]["requests"] == 1400
    assert set(others) <= {"SQLITE_BUSY"}


def test_a_reader_killed_midway_loses_and_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, ONE, ONE)
    reader = follower(tmp_path)
    reader.catch_up()
    write(tmp_path, ONE)
    with monkeypatch.context() as patch:
        patch.setattr("portal_service.tally.follow.forget", _die)
        with pytest.raises(KeyboardInterrupt):
            reader.catch_up()
    assert used(tmp_path)["today"]["requests"] == 2
    follower(tmp_path).catch_up()
    assert used(tmp_path)["today"]["requests"] == 3


def _die(*_: object) -> None:
    raise KeyboardInterrupt


counts = st.none() | st.integers(0, 2**40)
records = st.builds(
    replace,
    st.just(ONE),
    user_id=st.sampled_from(["alice", "bob", "x\u2028y"]),
    prompt_tokens=counts,
    completion_tokens=counts,
    cost_usd=st.none() | st.integers(0, 10**9).map(lambda micro: micro / 1e6),
)


@given(st.lists(records, max_size=30), st.integers(0, 30))
def test_sums_do_not_depend_on_how_lines_are_split(lines: Sequence[Record], cut: int) -> None:
    def sums(*parts: Sequence[Record]) -> dict[str, list[int]]:
        total: dict[str, list[int]] = {}
        for part in parts:
            for (_, user, _), day in counted([r.line() for r in part], Names(["llama"]).label, 0).days.items():
                each = total.setdefault(user, [0, 0, 0, 0])
                values = (day.requests, day.prompt_tokens, day.completion_tokens, day.cost_nano_usd or 0)
                total[user] = [a + b for a, b in zip(each, values, strict=True)]
        return total

    assert sums(lines) == sums(lines[:cut], lines[cut:])
    assert sum(each[3] for each in sums(lines).values()) == sum(round((r.cost_usd or 0) * 1e9) for r in lines)


def test_operators_see_the_traffic_of_the_last_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = now_is(monkeypatch)
    failed = replace(ONE, status=503, error_code="backend_unavailable", prompt_tokens=None, ttft_ms=None)
    refused = replace(ONE, status=429, error_code="rate_limit_exceeded", limited_by="requests_per_minute")
    cut = replace(ONE, error_code="upstream_error", prompt_tokens=0, completion_tokens=0, ttft_ms=None, cost_usd=None)
    write(tmp_path, ONE, failed, refused, cut, replace(ONE, time=NOON - timedelta(hours=1)))
    follower(tmp_path).catch_up()
    with UsageDb(tmp_path / "tally.sqlite").reading() as book:
        steps = live.traffic(book, now)
        models = live.models(book, now)
        users = live.users(book, str(TODAY))
        active = live.active(book, str(TODAY), now)
        mistakes = live.mistakes(book)
    assert len(steps) == 60
    busy = next(step for step in steps if step["requests"])
    assert (busy["requests"], busy["failed"], busy["refused"], busy["tokens"]) == (0.8, 0.4, 0.2, 7.0)
    assert busy["time"] == NOON.timestamp()
    assert (models["llama"]["requests"], models["llama"]["failed"]) == (4, 2)
    assert models["llama"]["ttft_ms"] == 20.0
    assert users == [{"user": "alice", "team": "search", "requests": 5, "tokens": 50, "cost_usd": 4 * 0.000123}]
    assert [(who.user, who.team, who.tier, who.key) for who in active] == [("alice", "search", "standard", "k1")]
    assert {(m["status"], m["code"], m["limited_by"], m["times"]) for m in mistakes} == {
        (503, "backend_unavailable", "", 1),
        (200, "upstream_error", "", 1),
        (429, "rate_limit_exceeded", "requests_per_minute", 1),
    }


def test_a_flood_of_errors_stays_a_few_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_is(monkeypatch)
    unknown = replace(ONE, user_id=None, status=401, error_code="invalid_api_key", model=None)
    write(tmp_path, *[replace(unknown, client_ip=f"10.0.0.{i % 250}") for i in range(1000)])
    write(tmp_path, *[replace(ONE, status=404, model=f"m{i}") for i in range(1000)])
    write(tmp_path, *[replace(ONE, status=500, user_id=f"u{i}") for i in range(1000)])
    follower(tmp_path).catch_up()
    with UsageDb(tmp_path / "tally.sqlite").reading() as book:
        assert book.execute("SELECT count(*) FROM mistakes").fetchone()[0] <= MAX_MISTAKES
        assert book.execute("SELECT count(DISTINCT model) FROM steps").fetchone()[0] <= 3
        assert len(live.mistakes(book)) <= 30


def test_old_days_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = TODAY - timedelta(days=100)
    write(tmp_path, replace(ONE, time=NOON - timedelta(days=100)), day=old)
    write(tmp_path, ONE)
    now_is(monkeypatch)
    follower(tmp_path).catch_up()
    with UsageDb(tmp_path / "tally.sqlite").reading() as book:
        assert book.execute("SELECT DISTINCT day FROM days").fetchall() == [(str(TODAY),)]
    follower(tmp_path).catch_up()


def test_a_log_kept_longer_than_the_tally_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, ONE, day=TODAY - timedelta(days=100))
    now_is(monkeypatch)
    reader = follower(tmp_path)
    reader.catch_up()
    write(tmp_path, ONE)
    reader.catch_up()
    assert reader.read_on() is False
