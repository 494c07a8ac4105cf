"""`gatehouse simulate`, from the command line to the logs and back."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from testkit.request_logs import record, refused, written

ROOT = Path(__file__).parents[2]


def simulate(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "gatehouse.cli", "simulate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)


def config(folder: Path, limits: str, keys: str = "{}") -> str:
    file = folder / "new.yaml"
    file.write_text(
        f"vllm: {{base_url: 'http://localhost:8100/v1'}}\nlogging: {{dir: '{folder}'}}\n"
        f"rate_limits: {{standard: {limits}}}\napi_keys: {keys}\n"
    )
    return str(file)


@pytest.fixture
def new(tmp_path: Path) -> str:
    """Two requests a minute, for a log with five of alice and one of bob, written in the order of their ends."""
    records = [record(i, request_id=f"r{i}", duration_ms=10_000 - i * 2000) for i in range(4)]
    records += [refused(30, request_id="r4", limit="requests_per_hour"), record(31, user_id="bob", tier="gold")]
    records.sort(key=lambda each: each.time.timestamp() + each.duration_ms / 1000)
    written(tmp_path / "requests_2026-11-01.log", records, tail=b'{"half')
    return config(tmp_path, "{requests_per_minute: 2}")


def test_people_get_the_sums(new: str) -> None:
    result = simulate("-c", new)
    assert result.returncode == 0
    assert result.stdout.startswith("3 of 6 requests would be refused (50.00%); 1 were: 2 more, 0 no more\n")
    lines = [line.split() for line in result.stdout.splitlines()]
    day = "2026-11-01"
    assert ["requests_per_minute", "3", "50.00%", day, "12:00:02", day, "12:00:30"] in lines
    assert ["alice", "3", "5", "60.00%", day, "12:00:02", day, "12:00:30", "requests_per_minute", "3"] in lines


def test_what_was_left_out_is_told(new: str) -> None:
    said = simulate("-c", new).stderr.splitlines()
    assert said[0].endswith("requests_2026-11-01.log: 1 line is no record, and skipped")
    assert said[1] == f"warning 1 requests are of tier 'gold', for which {new} has no limits"


def test_programs_get_each_refusal_as_csv(new: str) -> None:
    rows = list(csv.DictReader(io.StringIO(simulate("-c", new, "--format", "csv").stdout)))
    assert [(row["request_id"], row["limit"], row["was_refused_by"]) for row in rows] == [
        ("r2", "requests_per_minute", ""),
        ("r3", "requests_per_minute", ""),
        ("r4", "requests_per_minute", "requests_per_hour"),
    ]
    assert (rows[0]["time"], rows[0]["user"], rows[0]["key"]) == ("2026-11-01T12:00:02.000+00:00", "alice", "k1")


def test_programs_get_refusals_and_sums_as_json(new: str, tmp_path: Path) -> None:
    said = json.loads(simulate("--config", new, str(tmp_path / "requests_2026-11-01.log"), "--json").stdout)
    assert [refusal["request_id"] for refusal in said["refusals"]] == ["r2", "r3", "r4"]
    assert (said["requests"], said["refused"], said["newly_refused"], said["no_more_refused"]) == (6, 3, 2, 0)
    assert (list(said["skipped"].values()), said["tiers_without_limits"]) == ([1], {"gold": 1})


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_nothing_is_left_behind(new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    left = tmp_path / "tmp"
    left.mkdir()
    monkeypatch.setenv("TMPDIR", str(left))
    assert simulate("-c", new, "--format", form).returncode == 0
    assert list(left.iterdir()) == []


def test_nothing_is_left_behind_by_a_replay_that_is_stopped(tmp_path: Path) -> None:
    left = tmp_path / "tmp"
    left.mkdir()
    log = written(tmp_path / "many.log", [record(i, user_id=f"u{i % 50}") for i in range(30_000)])
    command = [sys.executable, "-m", "ratelimit_service.simulate", "-c", config(tmp_path, "{requests_per_day: 9}")]
    environment = {**os.environ, "TMPDIR": str(left)}
    with subprocess.Popen(
        [*command, "--log", str(log)], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    ) as process:
        assert process.stdout is not None
        assert "progress" in process.stdout.readline()
        assert list(left.iterdir()) != []
        process.terminate()
        assert process.wait(30) == 1
    assert list(left.iterdir()) == []


def test_limits_of_keys_come_from_the_new_configuration(tmp_path: Path) -> None:
    written(tmp_path / "requests_2026-11-01.log", [record(), record(1), record(2, key_id="k2")])
    new = config(tmp_path, "{}", "{sk-simulate-key-1: {user_id: alice, name: k1, limits: {requests_per_day: 1}}}")
    said = json.loads(simulate("-c", new, "--json").stdout)
    assert [(each["limit"], each["refused"]) for each in said["limits"]] == [("key_requests_per_day", 1)]


def test_logs_that_can_not_be_read_are_status_1_and_say_why(tmp_path: Path) -> None:
    new = config(tmp_path, "{requests_per_minute: 2}")
    result = simulate("-c", new)
    assert (result.returncode, result.stdout) == (1, "")
    assert "no request logs in" in result.stderr
    cut = written(tmp_path / "requests_2026-11-01.log.gz", [record(i, user_id=f"u{i}") for i in range(100)])
    cut.write_bytes(cut.read_bytes()[:-100])
    result = simulate("-c", new)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error Unexpected end of GZIP stream: {cut}")


def test_a_bad_configuration_is_status_2(tmp_path: Path) -> None:
    result = simulate("-c", config(tmp_path, "{requests_per_fortnight: 2}"))
    assert (result.returncode, result.stdout) == (2, "")
    assert "requests_per_fortnight: unknown field" in result.stderr
