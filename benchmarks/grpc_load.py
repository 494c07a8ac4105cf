"""Load on one unary gRPC method over a unix socket, and how long its answers took.

h2load (nghttp2) makes the load where it is installed: it takes little CPU from what it measures. Else a gRPC client in
Python does, whose own time then limits what can be measured.
"""

import asyncio
import shutil
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from grpc import aio

CONNECTIONS, STREAMS = 2, 16
"""As two worker threads of Envoy would call: one connection each, and this many calls at a time on it."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the callers saw. Latencies are in milliseconds and, under full load, mostly time spent waiting in line."""

    calls: int
    calls_per_s: float
    p50_ms: float
    p99_ms: float


def generator() -> str:
    return "h2load" if shutil.which("h2load") else "grpc.aio"


def load(socket: Path, method: str, message: bytes, seconds: int, cpu: int) -> Load:
    """Call `/package.Service/Method` for `seconds`, from CPU number `cpu`, as often as it answers.

    Raises `RuntimeError` when a call is not answered, or the generator fails.
    """
    latencies = _h2load(socket, method, message, seconds, cpu) if generator() == "h2load" else []
    latencies = latencies or asyncio.run(_grpc(socket, method, message, seconds))
    cuts = statistics.quantiles(latencies, n=100)
    return Load(len(latencies), len(latencies) / seconds, cuts[49] * 1000, cuts[98] * 1000)


def frame(message: bytes) -> bytes:
    """A gRPC message on the wire: not compressed, its length, itself (gRPC over HTTP/2, Length-Prefixed-Message)."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def _h2load(socket: Path, method: str, message: bytes, seconds: int, cpu: int) -> list[float]:
    with tempfile.TemporaryDirectory(prefix="gh-load-") as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(frame(message))
        command = ["taskset", "-c", str(cpu), "h2load", f"--base-uri=unix:{socket}", f"http://localhost{method}"]
        command += [f"--clients={CONNECTIONS}", f"--max-concurrent-streams={STREAMS}", f"--duration={seconds}"]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers", f"--data={body}", f"--log-file={log}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not log.exists():
            raise RuntimeError(f"h2load failed: {done.stderr or done.stdout}")
        lines = [line.split("\t") for line in log.read_text().splitlines()]
    failed = sum(status != "200" for _, status, _ in lines)
    if failed or not lines:
        raise RuntimeError(f"{failed} of {len(lines)} calls failed")
    return [int(microseconds) / 1e6 for _, _, microseconds in lines]


async def _grpc(socket: Path, method: str, message: bytes, seconds: int) -> list[float]:
    latencies: list[float] = []
    ends = time.perf_counter() + seconds

    async def caller(channel: aio.Channel) -> None:
        call = channel.unary_unary(method, bytes, bytes)
        while (began := time.perf_counter()) < ends:
            await call(message)
            latencies.append(time.perf_counter() - began)

    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [aio.insecure_channel(f"unix:{socket}", options=options) for _ in range(CONNECTIONS)]
    await asyncio.gather(*(caller(channel) for channel in channels for _ in range(STREAMS)))
    await asyncio.gather(*(channel.close(None) for channel in channels))
    return latencies
