"""How many ShouldRateLimit calls one worker answers on one core, beside envoyproxy/ratelimit in the same run.

`python -m benchmarks.limiter [--seconds 10] [--rounds 3] [--json]`

Each server has CPU 0 to itself, and takes its turn in interleaved rounds; Redis and the load are on CPU 1. Every call
checks and charges two windows of one user, a minute's and an hour's, in the one Redis that both servers use.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import redis
import yaml

from benchmarks.grpc_load import Load, generator, load
from gatehouse.pb.rls_pb2 import RateLimitRequest, RateLimitResponse
from testkit.original_build import NotBuiltError, built

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
LIMIT = 4_000_000_000  # nothing is refused, and it fits the peer's 32 bits
SERVER_CPU, OTHER_CPU = 0, 1
START_TIMEOUT_S = 30
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers, and the message that asks it about two windows."""

    name: str
    pid: int
    socket: Path
    message: bytes

    def remaining(self) -> int:
        """What is left in the hour's window, by the server's own answer to one more call."""
        with grpc.insecure_channel(f"unix:{self.socket}") as channel:
            call = channel.unary_unary(METHOD, bytes, RateLimitResponse.FromString)
            answer: RateLimitResponse = call(self.message, timeout=START_TIMEOUT_S, wait_for_ready=True)
        if answer.overall_code != RateLimitResponse.OK:
            raise RuntimeError(f"{self.name} refuses: {answer}")
        headers = {header.key: header.value for header in answer.response_headers_to_add}
        return int(headers.get("x-ratelimit-remaining-hour") or answer.statuses[-1].limit_remaining)


@dataclass(frozen=True, slots=True)
class Round:
    """One server's turn. `counted` is the share of calls that arrived in Redis; CPU times are for one call."""

    load: Load
    counted: float
    server_cpu_us: float
    redis_cpu_us: float


def main() -> None:
    options = _parser().parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gh-bench-")))
        store = stack.enter_context(_redis(folder))
        servers = [stack.enter_context(ours(folder))]
        binary = peer_binary()
        if binary is not None:
            servers.append(stack.enter_context(peer(binary, folder)))
        rounds: dict[str, list[Round]] = {server.name: [] for server in servers}
        for number in range(options.rounds):
            for server in servers:
                print(f"round {number + 1} of {options.rounds}: {server.name}", file=sys.stderr)
                rounds[server.name].append(measure(server, store, options.seconds))
    report(rounds, as_json=options.json)


def measure(server: Server, store: int, seconds: int) -> Round:
    """One round. `store` is the process id of Redis."""
    left, server_s, store_s = server.remaining(), _cpu_s(server.pid), _cpu_s(store)
    seen = load(server.socket, METHOD, server.message, seconds, OTHER_CPU)
    server_s, store_s = _cpu_s(server.pid) - server_s, _cpu_s(store) - store_s
    time.sleep(0.5)  # for calls in flight when the load ended
    counted = (left - server.remaining() - 1) / seen.calls
    return Round(seen, counted, server_s / seen.calls * 1e6, store_s / seen.calls * 1e6)


@contextmanager
def ours(folder: Path) -> Iterator[Server]:
    """One worker of ratelimit_service."""
    config = {
        "vllm": {"base_url": "http://127.0.0.1:1/v1"},
        "api_keys": {"sk-limiter-benchmark": {"user_id": "alice", "tier": "paid"}},
        "rate_limits": {"paid": {"requests_per_minute": LIMIT, "requests_per_hour": LIMIT}},
        "redis": {"url": f"unix://{folder / 'redis.sock'}"},
        "logging": {"dir": str(folder / "logs")},
    }
    file = folder / "gatehouse.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "ratelimit_service", "-c", str(file), "--run-dir", str(folder), "--index", "0"]
    entries = {"user": "alice", "team": "-", "tier": "paid", "key_id": "laptop", "model": "m", "asks": "256/1/420/0"}
    entries |= {"request_id": "6f9619ff-8b86-4011-b42d-00cf4fc964ff"}
    with _pinned(command, SERVER_CPU, {}) as pid:
        yield Server("ratelimit_service", pid, folder / "ratelimit-0.sock", _request([entries]))


@contextmanager
def peer(binary: Path, folder: Path) -> Iterator[Server]:
    """envoyproxy/ratelimit, with its configuration's word for the same: a descriptor for each window."""
    config = folder / "peer" / "config" / "gatehouse.yaml"
    config.parent.mkdir(parents=True)
    limits = [{"key": unit, "rate_limit": {"unit": unit, "requests_per_unit": LIMIT}} for unit in ("minute", "hour")]
    config.write_text(yaml.safe_dump({"domain": "gatehouse", "descriptors": limits}))
    environment = {
        "GOMAXPROCS": "1",
        "RUNTIME_ROOT": str(folder / "peer"),
        "RUNTIME_WATCH_ROOT": "false",
        "GRPC_UDS": str(folder / "peer.sock"),
        "REDIS_SOCKET_TYPE": "unix",
        "REDIS_URL": str(folder / "redis.sock"),
        "USE_STATSD": "false",
        "LOG_LEVEL": "error",
        "PORT": str(_free_port()),
        "DEBUG_PORT": str(_free_port()),
    }
    message = _request([{"minute": "alice"}, {"hour": "alice"}])
    with _pinned([str(binary)], SERVER_CPU, environment) as pid:
        yield Server("envoyproxy/ratelimit", pid, folder / "peer.sock", message)


def peer_binary() -> Path | None:
    """The peer; None, with the reason printed, if it is not available."""
    try:
        return built("service_cmd")
    except NotBuiltError as error:
        print(f"without envoyproxy/ratelimit: {error}", file=sys.stderr)
        return None


def report(rounds: Mapping[str, Sequence[Round]], *, as_json: bool) -> None:
    """The medians of each server's rounds, and the first server's rate as a multiple of each other's."""
    if as_json:
        print(json.dumps({name: [asdict(round_) for round_ in found] for name, found in rounds.items()}))
        return
    print(f"load by {generator()}, medians of {len(next(iter(rounds.values())))} rounds")
    print(f"{'':22}{'calls/s':>9}{'p50 ms':>8}{'p99 ms':>8}{'CPU us/call':>13}{'Redis us/call':>15}{'counted':>9}")
    for name, found in rounds.items():
        rate, p50, p99 = (_median(getattr(r.load, what) for r in found) for what in ("calls_per_s", "p50_ms", "p99_ms"))
        server, store, counted = (_median(getattr(r, what) for r in found) for what in _COSTS)
        print(f"{name:22}{rate:9.0f}{p50:8.2f}{p99:8.2f}{server:13.0f}{store:15.0f}{counted:9.1%}")
    first, *others = rounds
    for other in others:
        ratios = [a.load.calls_per_s / b.load.calls_per_s for a, b in zip(rounds[first], rounds[other], strict=True)]
        print(f"{first} answers {_median(ratios):.2f} times as many calls as {other}")


_COSTS = ("server_cpu_us", "redis_cpu_us", "counted")


def _median(numbers: "Iterator[float] | list[float]") -> float:
    return statistics.median(numbers)


def _request(descriptors: Sequence[Mapping[str, str]]) -> bytes:
    request = RateLimitRequest(domain="gatehouse")
    for descriptor in descriptors:
        entries = request.descriptors.add().entries
        for key, value in descriptor.items():
            entries.add(key=key, value=value)
    return request.SerializeToString()


@contextmanager
def _redis(folder: Path) -> Iterator[int]:
    path = folder / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(folder)]
    with _pinned(command, OTHER_CPU, {}) as pid:
        client = redis.Redis(unix_socket_path=str(path))
        deadline = time.monotonic() + START_TIMEOUT_S
        while not path.exists() or not client.ping():
            if time.monotonic() > deadline:
                raise RuntimeError("redis-server did not come up")
            time.sleep(0.05)
        yield pid


@contextmanager
def _pinned(command: Sequence[str], cpu: int, environment: Mapping[str, str]) -> Iterator[int]:
    """A program on one CPU, from here to the end of the block; its process id."""
    process = subprocess.Popen(
        ["taskset", "-c", str(cpu), *command],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_TIMEOUT_S)


def _cpu_s(pid: int) -> float:
    """CPU seconds that all threads of a process have used (proc(5): utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="ShouldRateLimit calls per second, of one worker on one core.")
    parser.add_argument("--seconds", type=int, default=10, help="of load in each round (default: 10)")
    parser.add_argument("--rounds", type=int, default=3, help="for each server, interleaved (default: 3)")
    parser.add_argument("--json", action="store_true", help="every round, for scripts")
    return parser


if __name__ == "__main__":
    main()
