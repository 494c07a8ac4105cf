"""Logs have a size: beyond it the oldest go, parts of today too, and never what is written to now."""

import logging
import shutil
from datetime import date
from pathlib import Path

import pytest

from accesslog_service import disk_budget
from accesslog_service.disk_budget import Room, surplus

TODAY = date(2026, 11, 10)
GB = 1_000_000_000


def sized(*found: tuple[str, int]) -> list[tuple[Path, int]]:
    return [(Path(name), size) for name, size in found]


def gone(most: int, *found: tuple[str, int]) -> list[str]:
    return [path.name for path in surplus(sized(*found), most, TODAY)]


FILES = (
    ("requests_2026-11-10.log", 40),
    ("requests_2026-11-09.log.zst", 10),
    ("envoy_access_2026-11-08.log.gz", 10),
    ("app_2026-11-07.log", 10),
    ("envoy_access.log", 30),
    ("tally.sqlite", 5),
)


def test_while_there_is_room_nothing_goes() -> None:
    assert gone(105, *FILES) == []


def test_the_oldest_day_goes_first_and_no_more_than_has_to() -> None:
    assert gone(104, *FILES) == ["app_2026-11-07.log"]
    assert gone(90, *FILES) == ["app_2026-11-07.log", "envoy_access_2026-11-08.log.gz"]


def test_today_stays_and_what_is_no_file_a_day() -> None:
    assert set(gone(0, *FILES)) == {name for name, _ in FILES[1:4]}


def test_of_today_the_oldest_parts_go_and_envoys_before_those_that_would_be_made_whole_from_them() -> None:
    parts = [(f"{stem}_2026-11-10.{n}.log", 10) for stem in ("requests", "envoy_access") for n in (9, 10)]
    files = [*FILES, *parts]
    older = [name for name, _ in sorted(FILES[1:4], key=lambda file: file[0][-14:])]
    assert gone(105, *files)[3:] == ["envoy_access_2026-11-10.9.log"]
    assert gone(0, *files)[3:] == [
        f"{stem}_2026-11-10.{n}.log" for stem in ("envoy_access", "requests") for n in (9, 10)
    ]
    assert set(gone(0, *files)[:3]) == set(older)


def test_what_has_grown_to_an_eighth_is_continued_in_another_file(tmp_path: Path) -> None:
    file, envoy, small = (
        tmp_path / name for name in ("requests_2026-11-10.log", "envoy_access.log", "app_2026-11-10.log")
    )
    looking = Room(tmp_path, lambda: 8000 / GB)
    for part in (1, 2):
        file.write_bytes(b"x" * 1000)
        envoy.write_bytes(b"x" * 1200)
        small.write_bytes(b"x" * 999)
        looking.make(TODAY)
        assert not file.exists()
        assert (tmp_path / f"requests_2026-11-10.{part}.log").stat().st_size == 1000
        assert (tmp_path / f"envoy_access_2026-11-10.{part}.log").stat().st_size == 1200
    assert small.exists()


def test_a_day_of_writing_stays_within_the_room_and_what_goes_is_counted(tmp_path: Path) -> None:
    dropped: list[int] = []
    looking = Room(tmp_path, lambda: 8000 / GB, dropped.append)
    for _ in range(40):
        for name in ("requests_2026-11-10.log", "envoy_access.log"):
            with (tmp_path / name).open("ab") as file:
                file.write(b"x" * 600)
        looking.make(TODAY)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 8000
        assert list(tmp_path.glob("*.log"))
    assert sum(dropped) == 40 * 1200 - sum(path.stat().st_size for path in tmp_path.iterdir())
    assert len(list(tmp_path.glob("requests_2026-11-10.*.log"))) >= 4, "what is left is the request log"


def test_it_is_told_and_done(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "requests_2026-11-01.log").write_bytes(b"x" * 1000)
    (tmp_path / "requests_2026-11-10.log").write_bytes(b"x" * 1000)
    with caplog.at_level(logging.ERROR):
        Room(tmp_path, lambda: 1500 / GB).make(TODAY)
    assert [path.name for path in tmp_path.iterdir()] == ["requests_2026-11-10.1.log"]
    assert "requests_2026-11-01.log is deleted before its time" in caplog.text


def test_logs_that_others_could_read_are_closed(tmp_path: Path) -> None:
    (tmp_path / "envoy_access.log").touch(0o644)
    (tmp_path / "bodies_2026-11-10.log").touch(0o600)
    Room(tmp_path, lambda: None).make(TODAY)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"envoy_access.log": 0o640, "bodies_2026-11-10.log": 0o600}


def test_without_a_figure_it_is_half_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "requests_2026-11-01.log").write_bytes(b"x" * 1000)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(total=2000))
    Room(tmp_path, lambda: None).make(TODAY)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(total=1998))
    Room(tmp_path, lambda: None).make(TODAY)
    assert list(tmp_path.iterdir()) == []


def test_envoys_log_of_itself_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_budget, "MOST_OF_ENVOY_LOG", 10)
    own = tmp_path / disk_budget.ENVOY_LOG
    with own.open("ab") as envoy:
        envoy.write(b"x" * 11)
        envoy.flush()
        Room(tmp_path, lambda: None).make(TODAY)
        envoy.write(b"y")
    assert own.read_bytes() == b"y"
