"""Connections that each ask again as soon as they are answered (a closed loop), by h2load of nghttp2 over HTTP/1.1."""

import shutil
import statistics
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.clients.request import BODY, HEADERS, PATH
from benchmarks.contenders.contender import Running
from benchmarks.machine import LOAD_CPUS, NotInstalledError

_AFTERWARDS_S = 30
"""Time for open requests to finish at the end."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the connections saw. `rate` counts answers with status 200 alone; latencies are theirs, in milliseconds."""

    requests: int
    rate: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    statuses: dict[str, int]


def h2load() -> str:
    found = shutil.which("h2load")
    if found is None:
        raise NotInstalledError("there is no h2load (Debian and Ubuntu: apt install nghttp2-client)")
    return found


def load(contender: Running, connections: int, seconds: float, body: bytes = BODY) -> Load:
    """Run the load. Raises `RuntimeError` when nothing is answered, or connections stay busy after the end."""
    with tempfile.TemporaryDirectory(prefix="gh-load-") as folder:
        data, log = Path(folder) / "body", Path(folder) / "log"
        data.write_bytes(body)
        command = ["taskset", "-c", ",".join(map(str, LOAD_CPUS)), h2load(), "--h1", contender.url + PATH]
        command += [
            f"--clients={connections}",
            f"--duration={seconds * 1000:.0f}ms",
            f"--data={data}",
            f"--log-file={log}",
        ]
        for header in ({**HEADERS, **contender.headers}).items():
            command += ["--header", ": ".join(header)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + _AFTERWARDS_S)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{contender.name} keeps its connections busy {_AFTERWARDS_S} s after the end") from None
        lines = [line.split("\t") for line in log.read_text().splitlines()] if log.exists() else []
    if not lines:
        raise RuntimeError(f"{contender.name} answered nothing: {_last_line(done.stderr)}")
    statuses = Counter(status for _, status, _ in lines)
    return _seen([int(micros) / 1000 for _, status, micros in lines if status == "200"], seconds, statuses)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no word of why"])[-1]


def _seen(latencies_ms: Sequence[float], seconds: float, statuses: Counter[str]) -> Load:
    nothing = float("nan")
    cuts = statistics.quantiles(latencies_ms, n=100) if len(latencies_ms) > 1 else [nothing] * 99
    answered = len(latencies_ms)
    return Load(sum(statuses.values()), answered / seconds, cuts[49], cuts[89], cuts[98], dict(statuses))
