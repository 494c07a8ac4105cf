"""Envoy's log gets a file a day, and never one that Envoy does not know of."""

import os
import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from accesslog_service.rotation import Rotation

TODAY = date(2026, 11, 3)


class Envoy:
    """Writes to the file it has open, until it is told to open it anew."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.file = directory / "envoy_access.log"
        self.answers = True
        self.told = 0
        self._open = self.file.open("a")

    def write(self, line: str) -> None:
        print(line, file=self._open, flush=True)

    async def ready(self) -> None:
        if not self.answers:
            raise ConnectionRefusedError

    async def reopen_logs(self) -> None:
        self.told += 1
        self._open.close()
        self._open = self.file.open("a")


def rotation(directory: Path, envoy: Envoy, day: date = TODAY - timedelta(days=1)) -> Rotation:
    """Of a gateway whose log was last written to on `day`."""
    noon = datetime.combine(day, datetime.min.time(), UTC).timestamp() + 12 * 3600
    os.utime(directory / "envoy_access.log", (noon, noon))
    return Rotation(directory, 2, envoy.ready, envoy.reopen_logs)


def contents(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


@pytest.mark.asyncio
async def test_the_file_of_yesterday_gets_its_name_and_envoy_begins_another(tmp_path: Path) -> None:
    envoy = Envoy(tmp_path)
    envoy.write("old")
    assert await rotation(tmp_path, envoy).rotated(TODAY)
    envoy.write("new")
    assert contents(tmp_path) == {"envoy_access_2026-11-02.log": "old\n", "envoy_access.log": "new\n"}


@pytest.mark.asyncio
async def test_nothing_is_renamed_while_envoy_cannot_be_told(tmp_path: Path) -> None:
    envoy = Envoy(tmp_path)
    envoy.write("old")
    under_test = rotation(tmp_path, envoy)
    envoy.answers = False
    assert not await under_test.rotated(TODAY)
    assert contents(tmp_path) == {"envoy_access.log": "old\n"}
    envoy.answers = True
    assert await under_test.rotated(TODAY)
    assert contents(tmp_path) == {"envoy_access_2026-11-02.log": "old\n", "envoy_access.log": ""}


@pytest.mark.asyncio
async def test_a_file_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    envoy = Envoy(tmp_path)
    envoy.write("old")
    (tmp_path / "envoy_access_2026-11-02.log").write_text("older\n")
    assert await rotation(tmp_path, envoy).rotated(TODAY)
    assert contents(tmp_path) == {"envoy_access_2026-11-02.log": "older\n", "envoy_access.log": "old\n"}


def at_noon(day: date = TODAY) -> datetime:
    return datetime.combine(day, datetime.min.time(), UTC) + timedelta(hours=12)


@pytest.mark.asyncio
async def test_what_somebody_else_renames_or_removes_envoy_is_told_of(tmp_path: Path) -> None:
    envoy = Envoy(tmp_path / "logs")
    furnished: list[int] = []
    noon = at_noon()
    under_test = Rotation(
        tmp_path / "logs", 2, envoy.ready, envoy.reopen_logs, lambda: furnished.append(len(furnished))
    )
    under_test._day = TODAY
    await under_test.look(noon)
    envoy.write("one")
    envoy.file.rename(envoy.file.with_suffix(".log.1"))
    await under_test.look(noon)
    envoy.write("two")
    assert envoy.file.read_text() == "two\n"
    shutil.rmtree(tmp_path / "logs")
    await under_test.look(noon)
    envoy.write("three")
    assert contents(tmp_path / "logs") == {"envoy_access.log": "three\n"}
    assert furnished == [0]


@pytest.mark.asyncio
async def test_while_nothing_moves_envoy_is_told_nothing(tmp_path: Path) -> None:
    envoy = Envoy(tmp_path)
    under_test = rotation(tmp_path, envoy, TODAY)
    await under_test.look(at_noon())
    told = envoy.told
    for _ in range(5):
        await under_test.look(at_noon())
    assert envoy.told == told


@pytest.mark.asyncio
async def test_a_clock_that_was_ahead_does_not_put_off_the_next_midnight(tmp_path: Path) -> None:
    envoy = Envoy(tmp_path)
    under_test = rotation(tmp_path, envoy, TODAY)
    await under_test.look(at_noon(TODAY + timedelta(days=40)))
    await under_test.look(at_noon())
    envoy.write("new")
    await under_test.look(at_noon(TODAY + timedelta(days=1)))
    assert "new\n" in contents(tmp_path).values()
    assert under_test._day == TODAY + timedelta(days=1)


@pytest.mark.asyncio
async def test_a_directory_that_can_not_be_seen_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    envoy = Envoy(tmp_path)
    under_test = rotation(tmp_path, envoy, TODAY)
    await under_test.look(at_noon())

    def unreadable(_: Path) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", unreadable)
        for _ in range(3):
            await under_test.look(at_noon())
    await under_test.look(at_noon())
    assert len(caplog.records) == 1
