"""Workers are copies of a prefork server: each a child of the supervisor, with a life and a death of its own."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gatehouse.process.prefork import copying
from gatehouse.process.supervise import executed

ROOT = Path(__file__).parents[2]
SUPERVISOR = """
import asyncio, os, signal, sys
from gatehouse.process import prefork
from gatehouse.process.supervise import Program, supervise

prefork.LINGERS_S = float(os.environ["LINGERS_S"])

async def main(start):
    os.environ["SINCE"] = "the fork"
    name, *arguments = sys.argv[1:]
    programs = [Program(f"worker-{n}", (sys.executable, "-m", name, str(n), *arguments), start=start) for n in (0, 1)]
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(15, stop.set)
    await supervise(programs, stop)

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start what is in the background without it
with prefork.copying(["json"]) as start:
    asyncio.run(main(start))
"""
WORKER = """
import json, os, random, signal, sys, threading
facts = dict(
    pid=os.getpid(), parent=os.getppid(), group=os.getpgid(0), arguments=sys.argv[1:], main=__name__,
    environment=os.environ.get("SINCE"), random=random.random(), threads=threading.active_count(),
    files=sorted(os.readlink(f"/proc/self/fd/{fd}").split(":")[0] for fd in os.listdir("/proc/self/fd") if int(fd) > 2
                 and os.path.exists(f"/proc/self/fd/{fd}")),
    title=open("/proc/self/cmdline").read().rstrip(chr(0)),
    interrupts=signal.getsignal(2) is signal.default_int_handler,
)
with open(sys.argv[2], "a") as file:
    print(json.dumps(facts), file=file)
if sys.argv[1] == "1" and len(sys.argv) > 3:
    sys.exit(int(sys.argv[3]))
signal.pause()
"""


class House:
    """A supervisor of two workers, and what those wrote of themselves."""

    def __init__(self, directory: Path, *arguments: str, lingers_s: float = 60) -> None:
        (directory / "a_worker.py").write_text(WORKER)
        self._facts, self._log = directory / "facts", directory / "log"
        path = os.pathsep.join([str(directory), str(ROOT)])
        with self._log.open("wb") as log, self._log.open("rb") as given:
            self.supervisor = subprocess.Popen(
                [sys.executable, "-c", SUPERVISOR, "a_worker", str(self._facts), *arguments],
                env={**os.environ, "PYTHONPATH": path, "LINGERS_S": str(lingers_s)},
                stderr=log,
                pass_fds=[given.fileno()],
            )

    def facts(self, count: int) -> list[dict[str, Any]]:
        """Of the first `count` workers that ran, once there are so many."""
        until(lambda: self._facts.exists() and len(self._facts.read_text().splitlines()) >= count)
        return [json.loads(line) for line in self._facts.read_text().splitlines()]

    def said(self) -> str:
        return self._log.read_text()

    def prefork(self) -> int:
        return self.zygotes()[0]

    def zygotes(self) -> list[int]:
        children = Path(f"/proc/{self.supervisor.pid}/task/{self.supervisor.pid}/children").read_text().split()
        return [int(pid) for pid in children if "prefork" in Path(f"/proc/{pid}/cmdline").read_text()]


def until(condition: Callable[[], bool], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    running = House(tmp_path)
    yield running
    if running.supervisor.poll() is None:
        running.supervisor.kill()
        running.supervisor.wait()


def test_a_copy_is_what_python_m_would_have_started(house: House) -> None:
    first, second = sorted(house.facts(2), key=lambda facts: str(facts["arguments"]))
    assert first["main"] == "__main__"
    assert first["arguments"][0] == "0"
    assert first["parent"] == second["parent"] == house.supervisor.pid
    assert first["group"] == first["pid"]
    assert first["environment"] == "the fork"
    assert first["title"].startswith(f"{sys.executable} -m a_worker 0 ")
    assert first["interrupts"] is True
    assert first["threads"] == 1
    assert first["files"] == second["files"] == []
    assert first["random"] != second["random"]


def test_the_zygote_has_one_thread(house: House) -> None:
    house.facts(2)
    assert len(list(Path(f"/proc/{house.prefork()}/task").iterdir())) == 1


def test_a_copy_that_is_killed_is_started_again_and_the_other_runs_on(house: House) -> None:
    first, second = house.facts(2)
    os.kill(first["pid"], signal.SIGKILL)
    third = house.facts(3)[2]
    assert third["arguments"] == first["arguments"]
    assert alive(second["pid"])


def test_the_end_of_a_copy_is_known_with_its_status(tmp_path: Path) -> None:
    house = House(tmp_path, "7")
    house.facts(3)
    house.supervisor.terminate()
    assert house.supervisor.wait(10) == 0
    assert "worker-1 ended with status 7; starting it again" in house.said()


def test_where_processes_can_not_be_watched_they_are_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_pid: int) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "pidfd_open", forbidden)
    with copying([]) as start:
        assert start is executed


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
def test_afterwards_this_process_adopts_no_orphans_any_more() -> None:
    with copying([]):
        pass
    adopts = ctypes.c_int(-1)
    ctypes.CDLL(None).prctl(37, ctypes.byref(adopts))  # PR_GET_CHILD_SUBREAPER
    assert adopts.value == 0


def test_once_no_copy_is_wanted_for_a_while_it_ends_and_workers_are_executed(tmp_path: Path) -> None:
    house = House(tmp_path, lingers_s=0.5)
    first, second = house.facts(2)
    until(lambda: not house.zygotes())
    assert alive(first["pid"])
    assert alive(second["pid"])
    os.kill(first["pid"], signal.SIGKILL)
    third = house.facts(3)[2]
    assert third["arguments"] == first["arguments"]
    house.supervisor.terminate()
    assert house.supervisor.wait(10) == 0
    assert "warning" not in house.said().lower()


def test_sigterm_ends_all_and_leaves_nobody(house: House) -> None:
    pids = [facts["pid"] for facts in house.facts(2)]
    prefork = house.prefork()
    house.supervisor.terminate()
    assert house.supervisor.wait(10) == 0
    assert not any(map(alive, [*pids, prefork]))


def test_a_supervisor_that_is_killed_leaves_nobody(house: House) -> None:
    pids = [facts["pid"] for facts in house.facts(2)]
    prefork = house.prefork()
    house.supervisor.kill()
    house.supervisor.wait()
    until(lambda: not any(map(alive, [*pids, prefork])))


def test_a_zygote_that_is_killed_takes_nobody_along_and_workers_go_on_being_started(house: House) -> None:
    first, second = house.facts(2)
    os.kill(house.prefork(), signal.SIGKILL)
    time.sleep(0.2)
    assert alive(first["pid"])
    assert alive(second["pid"])
    os.kill(first["pid"], signal.SIGKILL)
    third = house.facts(3)[2]
    assert third["arguments"] == first["arguments"]
    assert third["parent"] == house.supervisor.pid
    assert third["main"] == "__main__"
    assert "workers share no memory from now on" in house.said()
    house.supervisor.terminate()
    assert house.supervisor.wait(10) == 0
    assert not any(map(alive, (second["pid"], third["pid"])))
