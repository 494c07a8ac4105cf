"""Many streams at a time, and how late each of their events is.

Events carry their time of sending, so the client knows how long each was in transit, and the first one's time since
the request. A program of its own: `python -m benchmarks.clients.streams URL --streams 100 …`.
"""

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import uvloop

from benchmarks.clients.request import HEADERS, PATH, body
from benchmarks.contenders.contender import Running
from benchmarks.machine import LOAD_CPUS, ROOT, allow_many_files

_SENT = re.compile(rb"t(\d+);")
_END = b"[DONE]"
_OPENING_PER_S = 400


@dataclass(frozen=True, slots=True)
class Streams:
    """Times in milliseconds. `ttft` is from request to first event, `transit` the delay of the others."""

    asked: int
    opened: int
    finished: int
    events: int
    ttft_p50: float
    ttft_p99: float
    transit_p50: float
    transit_p99: float


def streams(contender: Running, count: int, events: int, interval_ms: int) -> Streams:
    """Open `count` streams of `events` events, and read them to the end."""
    done = subprocess.run(
        _command(contender, count, events, interval_ms),
        capture_output=True,
        text=True,
        check=True,
        timeout=count / _OPENING_PER_S + events * interval_ms / 1000 + 60,
        cwd=ROOT,
    )
    return Streams(**json.loads(done.stdout))


@contextmanager
def held_open(contender: Running, count: int) -> Iterator[int]:
    """`count` streams that say something every two seconds; how many of them are open in the block."""
    command = [*_command(contender, count, 10_000, 2000), "--report"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as client:
        assert client.stdout is not None
        try:
            yield int(client.stdout.readline() or 0)
        finally:
            client.kill()


def _command(contender: Running, count: int, events: int, interval_ms: int) -> list[str]:
    command = ["taskset", "-c", ",".join(map(str, LOAD_CPUS)), sys.executable, "-m", __name__, contender.url]
    command += ["--streams", str(count), "--events", str(events), "--interval", str(interval_ms)]
    return [*command, "--headers", json.dumps(dict(contender.headers))]


class _Stream(asyncio.Protocol):
    def __init__(self, seen: "_Seen") -> None:
        self._seen = seen
        self._asked_ns = 0
        self._opened = False
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._asked_ns = time.monotonic_ns()
        self._transport.write(self._seen.request)

    def data_received(self, data: bytes) -> None:
        now, text = time.monotonic_ns(), self._tail + data
        if not self._opened and data.startswith(b"HTTP/1.1") and data[9:12] != b"200":
            self._transport.close()
            return
        last = 0
        for match in _SENT.finditer(text):
            last = match.end()
            if self._opened:
                self._seen.transit_ns.append(now - int(match[1]))
            else:
                self._opened = True
                self._seen.ttft_ns.append(now - self._asked_ns)
        self._tail = text[max(last, len(text) - 64) :]
        if _END in text:
            self._seen.finished += 1
            self._transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        self._seen.closed += 1


class _Seen:
    def __init__(self, url: str, headers: dict[str, str], events: int, interval_ms: int) -> None:
        where = urlsplit(url)
        self.address = where.hostname, where.port
        asked = body(max_tokens=events, seed=interval_ms, stream=True)
        lines = [f"POST {PATH} HTTP/1.1", f"host: {where.netloc}", f"content-length: {len(asked)}"]
        lines += [f"{name}: {value}" for name, value in {**HEADERS, **headers}.items()]
        self.request = "\r\n".join(lines).encode() + b"\r\n\r\n" + asked
        self.ttft_ns: list[int] = []
        self.transit_ns: list[int] = []
        self.finished = self.closed = 0

    def streams(self, asked: int) -> Streams:
        ttft, transit = _percentiles(self.ttft_ns), _percentiles(self.transit_ns)
        events = len(self.transit_ns) + len(self.ttft_ns)
        return Streams(asked, len(self.ttft_ns), self.finished, events, *ttft, *transit)


def _percentiles(nanoseconds: list[int]) -> tuple[float, float]:
    if not nanoseconds:
        return float("nan"), float("nan")
    cuts = statistics.quantiles([*nanoseconds, nanoseconds[0]], n=100)  # of one alone there are no quantiles
    return cuts[49] / 1e6, cuts[98] / 1e6


async def _run(seen: _Seen, count: int, lasting_s: float, *, report: bool) -> None:
    loop = asyncio.get_running_loop()
    for number in range(count):
        try:
            await loop.create_connection(lambda: _Stream(seen), *seen.address)  # type: ignore[arg-type]  # neither part is None
        except OSError:
            seen.closed += 1
        if number % 4 == 3:
            await asyncio.sleep(4 / _OPENING_PER_S)
    patience = loop.time() + 20
    while len(seen.ttft_ns) < count - seen.closed and loop.time() < patience:
        await asyncio.sleep(0.02)
    if report:
        print(len(seen.ttft_ns), flush=True)
    patience = loop.time() + lasting_s + 20
    while seen.closed < count and loop.time() < patience:
        await asyncio.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description="Many streams at a time.")
    parser.add_argument("url")
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--interval", type=int, required=True, help="milliseconds between events")
    parser.add_argument("--headers", type=json.loads, default={})
    parser.add_argument("--report", action="store_true", help="say how many are open once all have begun")
    options = parser.parse_args()
    allow_many_files()
    seen = _Seen(options.url, options.headers, options.events, options.interval)
    lasting_s = options.events * options.interval / 1000
    uvloop.run(_run(seen, options.streams, lasting_s, report=options.report))
    found = seen.streams(options.streams)
    print(json.dumps({name: getattr(found, name) for name in Streams.__slots__}))


if __name__ == "__main__":
    main()
