"""What dies is started again, ever more slowly while it keeps dying; what is told to stop stops, one way or another."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.process import supervise
from gatehouse.process.supervise import FIRST_BACKOFF_S, MAX_BACKOFF_S, Program, backoff, keep_running
from testkit.waiting import until, until_async

ROOT = Path(__file__).parents[2]


def test_the_first_start_waits_for_nothing_and_the_next_ever_longer() -> None:
    assert backoff(0) == 0
    assert [backoff(failures) / FIRST_BACKOFF_S for failures in (1, 2, 3, 4)] == [1, 2, 4, 8]


@given(st.integers(0, 10**9))
def test_waiting_grows_up_to_its_limit(failures: int) -> None:
    assert backoff(failures) <= backoff(failures + 1) <= MAX_BACKOFF_S
    assert backoff(failures + 100) == MAX_BACKOFF_S


def shell(name: str, script: str) -> Program:
    return Program(name, ("/bin/sh", "-c", script))


def until_told(file: Path, on_term: str = "exit 0") -> Program:
    """Writes its pid to `file` and runs until SIGTERM, at which it says so and does `on_term`."""
    script = f"trap 'echo term >> {file}; {on_term}' TERM; echo $$ >> {file}; while :; do sleep 0.01; done"
    return shell(file.name, script)


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@asynccontextmanager
async def running(*programs: Program) -> AsyncIterator[asyncio.Event]:
    """Supervise `programs`; in the end they are stopped, and the supervisor returns soon."""
    stop = asyncio.Event()
    task = asyncio.create_task(supervise.supervise(programs, stop))
    try:
        yield stop
    finally:
        stop.set()
        async with asyncio.timeout(10):
            await task


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many quick deaths in a row the supervisor counted, each time it waited. The waits themselves are none."""
    counted: list[int] = []

    def none(failures: int) -> float:
        counted.append(failures)
        return 0.0

    monkeypatch.setattr(supervise, "backoff", none)
    return counted


@pytest.mark.asyncio
async def test_what_dies_is_started_again(tmp_path: Path, waits: list[int]) -> None:
    async with running(shell("dies", f"echo up >> {tmp_path}/log; exit 3")):
        await until_async(lambda: len(waits) >= 3)
    assert waits[:3] == [1, 2, 3]
    assert len(lines(tmp_path / "log")) >= 3


@pytest.mark.asyncio
async def test_a_machine_without_room_for_a_process_is_asked_again(
    tmp_path: Path, waits: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    log, refusals = tmp_path / "log", [OSError(errno.EMFILE, "Too many open files")] * 3

    async def start(command: Sequence[str]) -> supervise.Process:
        if refusals:
            raise refusals.pop()
        return await supervise.executed(command)

    async with running(replace(until_told(log), start=start), until_told(tmp_path / "other")):
        await until_async(lambda: len(lines(log)) == 1)
    assert waits == [1, 2, 3]
    assert lines(tmp_path / "other")[1:] == ["term"]
    assert [record.levelname for record in caplog.records if "Too many open files" in record.message] == ["ERROR"]


@pytest.mark.asyncio
async def test_what_is_not_there_at_all_is_said_at_once() -> None:
    with pytest.raises(FileNotFoundError):
        await keep_running(Program("none", ("/nowhere/program",)), asyncio.Event())


@pytest.mark.asyncio
async def test_what_is_killed_is_started_again(tmp_path: Path, waits: list[int]) -> None:
    log = tmp_path / "log"
    async with running(until_told(log)):
        await until_async(lambda: len(lines(log)) == 1)
        os.kill(int(lines(log)[0]), signal.SIGKILL)
        await until_async(lambda: len(lines(log)) == 2)
    assert waits == [1]


@pytest.mark.asyncio
async def test_a_death_after_a_steady_run_is_no_failure(waits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "STEADY_S", 0.0)
    async with running(shell("steady", "exit 1")):
        await until_async(lambda: len(waits) >= 3)
    assert waits[:3] == [0, 0, 0]


@pytest.mark.asyncio
async def test_one_that_dies_disturbs_no_other(tmp_path: Path, waits: list[int]) -> None:
    log = tmp_path / "log"
    async with running(until_told(log), shell("dies", "exit 1")):
        await until_async(lambda: len(waits) >= 3 and len(lines(log)) == 1)
        assert alive(lines(log)[0])
    assert lines(log)[1:] == ["term"]


@pytest.mark.asyncio
async def test_stop_during_a_wait_returns_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = asyncio.Event()

    def an_hour(failures: int) -> float:
        waiting.set()
        return 3600.0

    monkeypatch.setattr(supervise, "backoff", an_hour)
    async with running(shell("dies", f"echo up >> {tmp_path}/log")):
        await waiting.wait()
    assert lines(tmp_path / "log") == ["up"]


@pytest.mark.asyncio
async def test_stop_asks_first_and_waits_for_the_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with running(until_told(log, on_term=f"sleep 0.1; echo ended >> {log}; exit 0")):
        await until_async(lambda: len(lines(log)) == 1)
    assert lines(log)[1:] == ["term", "ended"]
    assert not alive(lines(log)[0])


@pytest.mark.asyncio
async def test_who_does_not_listen_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervise, "KILL_AFTER_S", 0.1)
    log = tmp_path / "deaf"
    async with running(until_told(log, on_term=":")):
        await until_async(lambda: len(lines(log)) == 1)
    assert not alive(lines(log)[0])
    assert lines(log)[1:] == ["term"]
    assert "deaf did not end within" in caplog.text


@pytest.mark.asyncio
async def test_all_are_asked_at_the_same_time(tmp_path: Path) -> None:
    logs = [tmp_path / name for name in "abc"]
    waits_for_all = f"while [ $(cat {tmp_path}/* | grep -c term) -lt 3 ]; do sleep 0.01; done; exit 0"
    async with running(*(until_told(log, on_term=waits_for_all) for log in logs)):
        await until_async(lambda: all(map(lines, logs)))
    assert [lines(log)[1:] for log in logs] == [["term"]] * 3


@pytest.mark.asyncio
async def test_ctrl_c_on_the_terminal_reaches_the_supervisor_alone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with running(until_told(log)):
        await until_async(lambda: len(lines(log)) == 1)
        assert os.getpgid(int(lines(log)[0])) != os.getpgrp()


@pytest.mark.asyncio
async def test_what_is_stopped_before_it_started_never_starts(tmp_path: Path) -> None:
    stop = asyncio.Event()
    stop.set()
    await keep_running(shell("never", f"echo up > {tmp_path}/log"), stop)
    assert lines(tmp_path / "log") == []


@pytest.mark.asyncio
async def test_a_command_that_is_not_there_is_said_to_be() -> None:
    with pytest.raises(FileNotFoundError, match="/no/such/program"):
        await keep_running(Program("none", ("/no/such/program",)), asyncio.Event())


def test_a_supervisor_that_is_killed_leaves_nothing_running(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = """
import asyncio, sys
from gatehouse.process.supervise import Program, supervise
asyncio.run(supervise([Program("child", tuple(sys.argv[1:]))], asyncio.Event()))
"""
    supervisor = subprocess.Popen([sys.executable, "-c", script, *until_told(log).command], cwd=ROOT)
    until(lambda: len(lines(log)) == 1)
    supervisor.kill()
    supervisor.wait()
    until(lambda: not alive(lines(log)[0]))
    assert lines(log)[1:] == ["term"]


@pytest.mark.asyncio
async def test_a_program_may_be_started_differently_again(tmp_path: Path) -> None:
    """An Envoy that took over from another can't do so twice."""
    file, stop = tmp_path / "starts", asyncio.Event()
    first, later = ("/bin/sh", "-c", f"echo first >> {file}"), ("/bin/sh", "-c", f"echo later >> {file}; sleep 60")
    running = asyncio.ensure_future(keep_running(Program("p", first, again=later), stop))
    await until_async(lambda: lines(file) == ["first", "later"])
    stop.set()
    await running


@pytest.mark.asyncio
async def test_what_runs_for_the_last_time_is_not_started_again(tmp_path: Path) -> None:
    file, last = tmp_path / "starts", asyncio.Event()
    last_run = shell("p", f"echo x >> {file}; sleep 0.2")
    running = asyncio.ensure_future(keep_running(last_run, asyncio.Event(), last))
    await until_async(lambda: lines(file) == ["x"])
    last.set()
    await asyncio.wait_for(running, 10)
    assert lines(file) == ["x"]
