"""The services' own log: one JSON object a line whatever is logged, and warnings for whoever watches."""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehouse.config.model import Logging
from gatehouse.process import app_log

log = logging.getLogger("gatehouse.test")


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """The root logger as it was, for the tests that come after."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def configured(directory: Path, level: str = "info") -> None:
    app_log.configure(Logging.model_validate({"dir": str(directory), "level": level}), "authz-0")


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(directory.glob("app_*.log")) for line in path.read_text().splitlines()]


def test_a_line_says_when_who_and_what(tmp_path: Path) -> None:
    configured(tmp_path)
    before = datetime.now(UTC)
    log.info("serving on %s", "x.sock")
    (line,) = lines(tmp_path)
    assert abs(datetime.fromisoformat(line.pop("time")) - before).total_seconds() < 5
    assert line == {
        "level": "info",
        "process": "authz-0",
        "logger": "gatehouse.test",
        "message": "serving on x.sock",
    }


def test_a_line_is_in_the_file_of_the_day_it_was_logged(tmp_path: Path) -> None:
    configured(tmp_path)
    record = log.makeRecord(log.name, logging.INFO, "file", 1, "late", (), None)
    record.created = datetime(2020, 2, 29, 23, 59, 59, tzinfo=UTC).timestamp()
    log.handle(record)
    assert [path.name for path in tmp_path.iterdir()] == ["app_2020-02-29.log"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(message=st.text() | st.sampled_from(['{"level":"error"}\n', "\x1b[31m", "\u2028", "\ud800", "%s %d"]))
def test_nothing_that_is_logged_can_forge_a_line(tmp_path: Path, message: str) -> None:
    configured(tmp_path)
    count = len(lines(tmp_path))
    log.info("%s", message)
    assert [line["message"] for line in lines(tmp_path)[count:]] == [message]


def test_an_exception_is_in_its_line(tmp_path: Path) -> None:
    configured(tmp_path)
    try:
        raise LookupError("no such thing")
    except LookupError:
        log.exception("failed")
    (line,) = lines(tmp_path)
    assert (line["level"], line["message"]) == ("error", "failed")
    assert line["exception"].splitlines()[-1] == "LookupError: no such thing"


@pytest.mark.parametrize(("level", "written"), [("debug", 3), ("info", 2), ("warning", 1), ("error", 0)])
def test_what_is_below_the_level_is_not_written(tmp_path: Path, level: str, written: int) -> None:
    configured(tmp_path, level)
    for say in (log.debug, log.info, log.warning):
        say("x")
    assert len(lines(tmp_path)) == written


def test_warnings_and_worse_are_shown_to_whoever_watches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configured(tmp_path, "debug")
    log.info("quiet")
    log.warning("loud")
    log.error("louder")
    assert capsys.readouterr().err.splitlines() == ["WARNING authz-0: loud", "ERROR authz-0: louder"]


def test_configured_twice_still_writes_once(tmp_path: Path) -> None:
    configured(tmp_path)
    configured(tmp_path)
    log.info("once")
    assert len(lines(tmp_path)) == 1


def test_a_mistake_in_a_log_call_costs_its_line_and_no_more(tmp_path: Path) -> None:
    configured(tmp_path)
    log.info("%d keys", "many")
    log.info("after")
    assert [line["message"] for line in lines(tmp_path)] == ["after"]


def test_a_disk_that_refuses_costs_lines_and_no_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs").write_text("a file, not a directory")
    configured(tmp_path / "logs")
    log.info("lost")
    assert "FileExistsError" in capsys.readouterr().err
