"""One process of the portal works, another stands by and takes over from one that ended, hangs or is stopped."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from portal_service import turn
from portal_service.turn import Turn, of_process
from portal_service.wiring import taken_over
from testkit.waiting import until

ROOT = Path(__file__).parents[2]
PROCESS = """
import sys, time
from portal_service.turn import Turn, bide
bide()
own = Turn(sys.argv[1], first=sys.argv[2] == "first")
own.wait()
print("turn", own.waited, own.killed, flush=True)
while True:
    if sys.argv[3] == "works":
        own.alive()
    time.sleep(0.1)
"""


@contextmanager
def process(directory: Path, place: str = "first", then: str = "works") -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", PROCESS, str(directory), place, then]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def turn_of(started: "subprocess.Popen[str]") -> tuple[str, float]:
    """What it says once it is its turn, and after how long."""
    assert started.stdout is not None
    began = time.monotonic()
    return started.stdout.readline().strip(), time.monotonic() - began


def test_a_process_that_is_killed_is_followed_within_a_second(tmp_path: Path) -> None:
    with process(tmp_path) as first:
        assert turn_of(first)[0] == "turn False None"
        with process(tmp_path, "second") as second:
            time.sleep(1)
            first.kill()
            said, after_s = turn_of(second)
    assert said == "turn True None"
    assert after_s < 1


def test_a_process_that_is_stopped_is_killed_and_followed_within_two_seconds(tmp_path: Path) -> None:
    with process(tmp_path) as first, process(tmp_path, "second") as second:
        turn_of(first)
        time.sleep(1)
        first.send_signal(signal.SIGSTOP)
        said, after_s = turn_of(second)
        assert said == f"turn True {first.pid}"
        assert first.wait(1) == -signal.SIGKILL
    assert 1.4 < after_s < 2.5


def test_one_that_works_is_left_alone_and_so_is_one_that_has_yet_to_load_everything(tmp_path: Path) -> None:
    for then in ("works", "loads"):
        with process(tmp_path / then, then=then) as first, process(tmp_path / then, "second") as second:
            turn_of(first)
            time.sleep(2.5)
            assert (first.poll(), second.poll()) == (None, None)


def test_a_standby_passes_over_signals_that_have_others_read_their_files_again(tmp_path: Path) -> None:
    with process(tmp_path) as first, process(tmp_path, "second") as second:
        turn_of(first)
        time.sleep(0.5)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            second.send_signal(number)
        first.kill()
        assert turn_of(second)[0] == "turn True None"


def test_the_standby_leaves_the_first_turn_to_the_other_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with process(tmp_path, "second") as second:
        time.sleep(0.5)
        with process(tmp_path) as first:
            assert turn_of(first)[0] == "turn False None"
            assert second.poll() is None
    monkeypatch.setattr(turn, "FIRST_S", 0.3)
    alone = Turn(str(tmp_path / "alone"), first=False)
    began = time.monotonic()
    alone.wait()
    assert 0.2 < time.monotonic() - began < 2
    assert not alone.waited


def test_looks_are_counted_not_timed() -> None:
    """A machine that sleeps, or a container that is frozen, wakes with both processes as they were."""
    looks = turn._Looks()
    needed = round(turn.HUNG_S / turn.LOOK_S)
    assert not any(looks.hung((1, 7)) for _ in range(needed))
    assert looks.hung((1, 7))
    assert not looks.hung((1, 8))
    assert not any(looks.hung((2, 0)) for _ in range(round(turn.STARTING_S / turn.LOOK_S)))
    assert looks.hung((2, 0))


@pytest.mark.parametrize(
    ("arguments", "directory"),
    [
        (["-c", "g.yaml", "--run-dir", "{}/run", "--index", "0"], "run"),
        (["--index=0", "--run-dir={}/run"], "run"),
        (["-c", "g.yaml", "--run-dir", "{}/run"], None),
        (["--help"], None),
    ],
)
def test_a_process_with_an_index_has_a_turn_in_its_run_directory(
    tmp_path: Path, arguments: list[str], directory: str | None
) -> None:
    found = of_process([argument.format(tmp_path) for argument in arguments])
    assert (found is not None) == (directory is not None)
    if directory:
        assert (tmp_path / directory / turn.FILE).stat().st_mode & 0o777 == 0o600


def test_a_standby_loads_next_to_nothing() -> None:
    """It is an interpreter of 4 MiB, and what it takes over needs 35."""
    code = "import portal_service.turn, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    heavy = {
        "asyncio",
        "argparse",
        "logging",
        "pathlib",
        "pydantic",
        "aiohttp",
        "gatehouse.config",
        "prometheus_client",
    }
    assert heavy & set(loaded.split()) == set()


def test_takeovers_are_counted_by_their_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()
    own = Turn(str(tmp_path), first=True)
    own.waited, own.killed = True, os.getpid()
    taken_over(own, registry)
    counts = {reason: registry.get_sample_value("api_portal_takeovers_total", {"reason": reason}) for reason in REASONS}
    assert counts == {"ended": 0, "hung": 1}
    assert f"portal process {os.getpid()} hung and was killed" in caplog.text


REASONS = ("ended", "hung")


def test_who_ends_by_itself_is_not_killed_again(tmp_path: Path) -> None:
    with process(tmp_path, then="loads") as first:
        turn_of(first)
        other = Turn(str(tmp_path), first=True)
        first.kill()
        first.wait()
        until(other._locked, 2)
        other._kill()
    assert other.killed is None
