"""Old files go one day's an hour, the oldest first, and only when their names and their own times agree."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gatehouse.files.retention import BETWEEN_S, FIRST_AFTER_S, Retention, copies, opened

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


class Clock:
    """The one that nobody sets."""

    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def written(directory: Path, name: str, at: datetime) -> None:
    (directory / name).write_text("x")
    os.utime(directory / name, (at.timestamp(), at.timestamp()))


def daily(directory: Path, last: datetime, count: int) -> None:
    """The files of so many days up to `last`, each written to until its end."""
    for back in range(count):
        day = last - timedelta(days=back)
        written(directory, f"requests_{day.date()}.log", day)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def hours(retention: Retention, clock: Clock, now: datetime, count: int) -> None:
    for _ in range(count):
        clock.seconds += BETWEEN_S
        retention.look(now)


def test_days_beyond_the_retention_go_one_an_hour(tmp_path: Path) -> None:
    clock = Clock()
    daily(tmp_path, NOON, 33)
    retention = Retention(tmp_path, "requests", 30, clock)
    retention.look(NOON)
    assert len(names(tmp_path)) == 33, "no clock is believed at once"
    clock.seconds += FIRST_AFTER_S
    for left in (32, 32, 31, 31):
        retention.look(NOON)
        assert len(names(tmp_path)) == left
        clock.seconds += BETWEEN_S / 2
    assert names(tmp_path)[0] == "requests_2026-10-02.log"
    hours(retention, clock, NOON, 3)
    assert len(names(tmp_path)) == 31


@pytest.mark.parametrize("days", [1, 30])
def test_a_clock_that_is_wrong_for_a_while_never_costs_todays_log(tmp_path: Path, days: int) -> None:
    clock = Clock()
    daily(tmp_path, NOON, days)
    retention = Retention(tmp_path, "requests", 30, clock)
    for _ in range(12):
        clock.seconds += 1
        retention.look(NOON + timedelta(days=40))
    assert len(names(tmp_path)) == days


def test_a_file_whose_own_time_is_young_stays(tmp_path: Path) -> None:
    clock = Clock()
    written(tmp_path, "requests_2020-01-01.log", NOON)
    hours(Retention(tmp_path, "requests", 30, clock), clock, NOON, 3)
    assert names(tmp_path) == ["requests_2020-01-01.log"]


def test_copies_go_with_their_day(tmp_path: Path) -> None:
    clock, old = Clock(), NOON - timedelta(days=100)
    for name in (".log", ".log.gz", ".log.zst", ".log.1", ".log.2.gz", ".log-20260724.gz", ".1.log", ".2.log.gz"):
        written(tmp_path, f"requests_{old.date()}{name}", old)
    hours(Retention(tmp_path, "requests", 30, clock), clock, NOON, 1)
    assert names(tmp_path) == []


def test_only_our_own_files_are_forgotten(tmp_path: Path) -> None:
    clock = Clock()
    others = (
        "app_2020-01-01.log",
        "requests_2020-01-01.log.bak",
        "requests_2020.log",
        "my_requests_2020-01-01.log",
        "envoy.log",
    )
    for name in others:
        written(tmp_path, name, datetime(2020, 1, 1, tzinfo=UTC))
    hours(Retention(tmp_path, "requests", 1, clock), clock, NOON, 10)
    assert set(names(tmp_path)) == set(others)


def test_a_file_that_another_process_forgot_first_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, unlink = Clock(), Path.unlink
    daily(tmp_path, NOON - timedelta(days=90), 1)

    def twice(path: Path, missing_ok: bool = False) -> None:
        unlink(path)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", twice)
    hours(Retention(tmp_path, "requests", 30, clock), clock, NOON, 1)
    assert names(tmp_path) == []


def test_copies_of_a_file_are_known_and_read(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "a.log.1").write_text("one")
    (tmp_path / "a.log.2.gz").write_bytes(gzip.compress(b"two"))
    (tmp_path / "a.log.bak").write_text("no")
    found = []
    for path in copies(tmp_path / "a.log"):
        with opened(path) as file:
            found.append(file.read())
    assert found == [b"one", b"two"]
