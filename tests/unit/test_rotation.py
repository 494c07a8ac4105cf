"""Envoy's log gets a file a day, and never one that Envoy does not know of."""

import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from accesslog_service.rotation import Rotation

TODAY = date(2026, 11, 3)


class Envoy:
    """Writes to the file it has open, until it is told to open it anew."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "envoy_access.log"
        self.answers = True
        self._open = self.file.open("a")

    def write(self, line: str) -> None:
        print(line, file=self._open, flush=True)

    async def ready(self) -> None:
        if not self.answers:
            raise ConnectionRefusedError

    async def reopen_logs(self) -> None:
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


@pytest.mark.asyncio
async def test_days_beyond_the_retention_are_forgotten(tmp_path: Path) -> None:
    envoy = Envoy(tmp_path)
    for day in ("2026-10-30", "2026-10-31", "2026-11-01"):
        (tmp_path / f"envoy_access_{day}.log").write_text("x\n")
    assert await rotation(tmp_path, envoy).rotated(TODAY)
    assert contents(tmp_path).keys() == {
        "envoy_access.log",
        "envoy_access_2026-11-01.log",
        "envoy_access_2026-11-02.log",
    }
