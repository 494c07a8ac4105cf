"""Programs on this machine: started, waited for, watched through /proc (proc(5)), and always ended."""

import os
import resource
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
CPUS = sorted(os.sched_getaffinity(0))
GATEWAY_CPUS = CPUS[:2]
"""Every contender gets these two."""
LOAD_CPUS = CPUS[2:] or CPUS
"""Load and upstream. On a machine with two CPUs they share them with the contender, whichever it is."""

START_TIMEOUT_S = 180
_LOOK_S = 0.2
_QUIET = 0.5
"""Of all CPUs: eight idle gateways still run health checks, and one with a backlog uses every CPU."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class NotInstalledError(Exception):
    """Something is not available on this machine; the message says what."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def allow_many_files() -> int:
    """Raise the soft limit on open files as far as it goes; children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@contextmanager
def running(
    command: Sequence[str | Path], folder: Path, cpus: Sequence[int], environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """A program on `cpus`, from here to the end of the block; its process id. What it says is in `folder/NAME.out`.

    It leads a process group of its own, all of which is gone afterwards.
    """
    pinned = ["taskset", "-c", ",".join(map(str, cpus)), *map(str, command)]
    output = folder / f"{Path(command[0]).name}-{time.monotonic_ns()}.out"
    with output.open("wb") as out:
        process = subprocess.Popen(
            pinned,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    try:
        yield process.pid
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(15)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until_answers(url: str, headers: Mapping[str, str], body: bytes | None, pid: int) -> float:
    """Seconds until `url` is answered 200. Raises `RuntimeError` when the program ends, or takes too long."""
    began = time.monotonic()
    while time.monotonic() - began < START_TIMEOUT_S:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            raise RuntimeError(f"the program behind {url} has ended")
        request = urllib.request.Request(url, data=body, headers=dict(headers))
        with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(request, timeout=5) as answer:
            if answer.status == 200:
                return time.monotonic() - began
        time.sleep(0.02)
    raise RuntimeError(f"{url} was not answered within {START_TIMEOUT_S} s")


def family(root: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def command_of(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return []


def cpu_s(pid: int) -> float:
    """CPU seconds of all threads of a process, in user mode and for it in the kernel."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return 0.0


def calm(within_s: float = 30.0) -> bool:
    """Wait until the machine is idle; whether it became so.

    An overloaded contender keeps answering disconnected clients, at the cost of the next one measured.
    """
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        before = _busy_s()
        time.sleep(_LOOK_S)
        if _busy_s() - before < _QUIET * _LOOK_S * len(CPUS):
            return True
    return False


def _busy_s() -> float:
    """CPU seconds that this machine has spent on anything (proc(5), /proc/stat)."""
    user, nice, system, _idle, _iowait, interrupts, soft = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + interrupts + soft) / _TICKS_PER_S


def pss_mib(pid: int) -> float:
    """Proportional set size: pages that several processes share are divided among them."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0
