"""Requests by the clock, whether or not earlier ones were answered (an open loop).

Latency counts from the moment a request was due, so that a gateway that stalls is charged for all who wait for it
(Tene's "coordinated omission"). A program of its own: `python -m benchmarks.clients.paced URL --rate 500 …`.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import uvloop

from benchmarks.clients.request import BODY, HEADERS, PATH
from benchmarks.contenders.contender import Running
from benchmarks.machine import LOAD_CPUS, ROOT


@dataclass(frozen=True, slots=True)
class Paced:
    """What came of it; latencies in milliseconds, of answers with status 200."""

    asked: int
    answered: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    statuses: dict[str, int]


def paced(contender: Running, rate: float, seconds: float) -> Paced:
    """`rate` requests a second, at random moments (a Poisson process), for `seconds`."""
    command = ["taskset", "-c", ",".join(map(str, LOAD_CPUS)), sys.executable, "-m", __name__, contender.url]
    command += ["--rate", str(rate), "--seconds", str(seconds), "--headers", json.dumps(dict(contender.headers))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60, cwd=ROOT)
    return Paced(**json.loads(done.stdout))


class _Connection(asyncio.Protocol):
    """One keep-alive connection: it carries a request whenever it is free."""

    def __init__(self, client: "_Client") -> None:
        self._client = client
        self._received = b""
        self._due = 0.0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def ask(self, due: float) -> None:
        self._due = due
        self._received = b""
        self.transport.write(self._client.request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, rest = self._received.partition(b"\r\n\r\n")
        if not blank or not _whole(head.lower(), rest):
            return
        self._client.done(self, self._due, head[9:12].decode())

    def connection_lost(self, _error: Exception | None) -> None:
        self._client.lost(self)


def _whole(head: bytes, rest: bytes) -> bool:
    at = head.find(b"content-length:")
    if at < 0:
        return rest.endswith(b"0\r\n\r\n")
    return len(rest) >= int(head[at + 15 :].split(b"\r\n", 1)[0])


class _Client:
    def __init__(self, url: str, headers: dict[str, str]) -> None:
        where = urlsplit(url)
        self._address = where.hostname, where.port
        lines = [f"POST {PATH} HTTP/1.1", f"host: {where.netloc}", f"content-length: {len(BODY)}"]
        lines += [f"{name}: {value}" for name, value in {**HEADERS, **headers}.items()]
        self.request = "\r\n".join(lines).encode() + b"\r\n\r\n" + BODY
        self._free: list[_Connection] = []
        self._running: set[asyncio.Task[None]] = set()
        self.latencies_ms: list[float] = []
        self.statuses: Counter[str] = Counter()

    def send(self, due: float) -> None:
        while self._free:
            connection = self._free.pop()
            if not connection.transport.is_closing():
                connection.ask(due)
                return
        task = asyncio.get_running_loop().create_task(self._connect(due))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _connect(self, due: float) -> None:
        try:
            _, made = await asyncio.get_running_loop().create_connection(lambda: _Connection(self), *self._address)  # type: ignore[arg-type]  # neither part is None
        except OSError:
            self.statuses["refused"] += 1
            return
        made.ask(due)

    def done(self, connection: _Connection, due: float, status: str) -> None:
        self.statuses[status] += 1
        if status == "200":
            self.latencies_ms.append((time.perf_counter() - due) * 1000)
        self._free.append(connection)

    def lost(self, connection: _Connection) -> None:
        if connection in self._free:
            self._free.remove(connection)


async def _run(url: str, headers: dict[str, str], rate: float, seconds: float) -> Paced:
    client, chance = _Client(url, headers), random.Random(1)
    due = time.perf_counter()
    ends, asked = due + seconds, 0
    while (due := due + chance.expovariate(rate)) < ends:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        client.send(due)
        asked += 1
    patience = time.perf_counter() + 10
    while sum(client.statuses.values()) < asked and time.perf_counter() < patience:
        await asyncio.sleep(0.05)
    found = client.latencies_ms
    cuts = statistics.quantiles(found, n=100) if len(found) > 1 else [float("nan")] * 99
    return Paced(asked, len(found), cuts[49], cuts[89], cuts[98], dict(client.statuses))


def main() -> None:
    parser = argparse.ArgumentParser(description="Requests by the clock.")
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--headers", type=json.loads, default={})
    options = parser.parse_args()
    found = uvloop.run(_run(options.url, options.headers, options.rate, options.seconds))
    print(json.dumps({name: getattr(found, name) for name in Paced.__slots__}))


if __name__ == "__main__":
    main()
