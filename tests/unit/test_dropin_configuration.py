"""The rules in force, through bad files, unreadable ones, and none."""

import asyncio
import logging
import sys
from pathlib import Path

import pytest

from ratelimit_service.dropin.config import reload
from ratelimit_service.dropin.config.reload import Configuration
from ratelimit_service.dropin.settings import load
from ratelimit_service.dropin.stats import Stats
from testkit.waiting import until_async

GOOD = "domain: d"


def made(root: Path, **variables: str) -> tuple[Configuration, Stats]:
    stats = Stats()
    return Configuration(load({"RUNTIME_ROOT": str(root), **variables}), stats), stats


def counted(stats: Stats, event: str) -> int:
    return int(next(line for line in stats.lines() if event in line).rpartition(" ")[2])


def test_bad_files_change_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "config" / "a.yaml"
    file.parent.mkdir()
    file.write_text(GOOD)
    found, stats = made(tmp_path)
    asyncio.run(found.load())
    file.write_text("domain: ''")
    asyncio.run(found.load())
    assert list(found.rules or ()) == ["d"]
    assert (counted(stats, "config_load_success"), counted(stats, "config_load_error")) == (1, 1)
    assert "a.yaml: config file cannot have empty domain" in caplog.text


def test_no_files_are_no_rules_but_no_place_is_an_error(tmp_path: Path) -> None:
    found, _ = made(tmp_path)
    asyncio.run(found.load())
    assert found.rules == {}
    nowhere, stats = made(tmp_path / "nowhere")
    asyncio.run(nowhere.load())
    assert nowhere.rules is None
    assert counted(stats, "config_load_error") == 1


@pytest.mark.asyncio
async def test_what_cannot_be_read_is_tried_again_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "a.yaml").write_text(GOOD)
    python = sys.executable
    monkeypatch.setattr(sys, "executable", "/no/such/program")
    monkeypatch.setattr(reload, "POLL_S", 0.01)
    monkeypatch.setattr(reload, "RETRY_S", 0.02)
    found, stats = made(tmp_path)
    await found.load()
    following = asyncio.create_task(found.follow())
    await until_async(lambda: counted(stats, "config_load_error") > 3)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    monkeypatch.setattr(sys, "executable", python)
    await until_async(lambda: found.rules is not None)
    following.cancel()
