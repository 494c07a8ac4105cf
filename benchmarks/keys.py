"""authz_service with many keys: how long a worker takes to start, what it weighs, how fast it answers.

    python -m benchmarks.keys [--keys 100000]

One worker at a time, for keys in gatehouse.yaml, in a key file, in a store of each kind, and for ten keys beside them.
"""

import argparse
import asyncio
import hashlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from gatehouse.keys.record import KeyRecord
from gatehouse.keys.store_file import FileKeyStore
from gatehouse.keys.store_redis import RedisKeyStore
from gatehouse.pb.external_auth_pb2 import CheckRequest
from gatehouse.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse
from gatehouse.redis_client.client import connect
from testkit.redis_server import redis_server

ROOT = Path(__file__).parents[1]
TIERS = "vllm: {base_url: 'http://127.0.0.1:1/v1'}\nrate_limits: {standard: {}, premium: {}}\n"
CALLS = 5000


def key(number: int) -> str:
    return f"sk-benchmark-{number:08}"


def digest(number: int) -> str:
    return "sha256:" + hashlib.sha256(key(number).encode()).hexdigest()


def yaml_keys(count: int) -> str:
    return "".join(
        f'  "{digest(n)}": {{name: key-{n}, user_id: user-{n % 5000}, tier: {"premium" if n % 3 else "standard"}}}\n'
        for n in range(count)
    )


def records(count: int) -> list[KeyRecord]:
    return [KeyRecord(digest(n), f"key-{n}", f"user-{n % 5000}", created_at=1.8e9) for n in range(count)]


@dataclass(frozen=True)
class Worker:
    """One running worker."""

    process: "subprocess.Popen[bytes]"
    socket: Path
    started_s: float

    def megabytes(self, field: str) -> float:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


@contextmanager
def worker(folder: Path, config: str) -> Iterator[Worker]:
    """`python -m authz_service --index 0`, from the moment it says that it serves."""
    (folder / "gatehouse.yaml").write_text(config + f"logging: {{dir: '{folder}/logs'}}\n")
    socket = folder / "run" / "authz-0.sock"
    command = [sys.executable, "-m", "authz_service", "-c", str(folder / "gatehouse.yaml")]
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--run-dir", str(folder / "run"), "--index", "0"], cwd=ROOT)
    try:
        while not socket.exists():
            assert process.poll() is None, "the worker has ended"
            time.sleep(0.005)
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            health = channel.unary_unary("/grpc.health.v1.Health/Check", response_deserializer=bytes)
            answer = health(HealthCheckRequest().SerializeToString(), wait_for_ready=True, timeout=60)
        assert HealthCheckResponse.FromString(answer).status == HealthCheckResponse.SERVING
        yield Worker(process, socket, time.perf_counter() - began)
    finally:
        process.terminate()
        process.wait()


def answers(socket: Path, shown: Callable[[int], str]) -> list[float]:
    """Seconds that each of `CALLS` checks took, one after the other."""
    took = []
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        check = channel.unary_unary("/envoy.service.auth.v3.Authorization/Check", response_deserializer=bytes)
        for number in range(CALLS):
            request = CheckRequest()
            request.attributes.request.http.headers["authorization"] = f"Bearer {shown(number)}"
            message = request.SerializeToString()
            began = time.perf_counter()
            check(message)
            took.append(time.perf_counter() - began)
    return sorted(took)


def report(name: str, folder: Path, config: str, keys: int) -> None:
    with worker(folder, config) as running:
        rss, peak = running.megabytes("VmRSS"), running.megabytes("VmHWM")
        spread = 7919  # a prime: each call another key, from all over
        known = answers(running.socket, lambda n: key(n * spread % keys))
        unknown = answers(running.socket, lambda n: key(n * spread % keys) + "-wrong")
        hot = answers(running.socket, lambda n: key(n % 10))
    figures = [
        f"{statistics.median(each) * 1e6:5.0f} {each[int(len(each) * 0.99)] * 1e6:5.0f}"
        for each in (known, hot, unknown)
    ]
    print(f"{name:22} {keys:7} {running.started_s:6.2f} {rss:6.0f} {peak:6.0f}   " + "   ".join(figures), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=100_000)
    count = parser.parse_args().keys
    off = "keys: {failures_per_minute: 0}\n"
    print("keys in                   keys  start    RSS   peak   any key     ten keys    unknown")
    print("                                    s    MiB    MiB   p50   p99   p50   p99   p50   p99  µs")
    with ExitStack() as stack:

        def folder() -> Path:
            return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gh-keys-")))

        report("gatehouse.yaml", folder(), f"{TIERS}{off}api_keys:\n{yaml_keys(10)}", 10)
        report("gatehouse.yaml", folder(), f"{TIERS}{off}api_keys:\n{yaml_keys(count)}", count)
        place = folder()
        (place / "keys.yaml").write_text("api_keys:\n" + yaml_keys(count))
        report("a key file", place, f"{TIERS}{off}key_files: ['{place}/keys.yaml']\n", count)
        place = folder()
        asyncio.run(FileKeyStore(place / "keys.jsonl").put(records(count)))
        report(
            "a store in a file", place, f"{TIERS}{off}key_store: {{type: file, path: '{place}/keys.jsonl'}}\n", count
        )
        server = stack.enter_context(redis_server())
        asyncio.run(_fill(server.url, count))
        report(
            "a store in Redis",
            folder(),
            f"{TIERS}{off}redis: {{url: '{server.url}'}}\nkey_store: {{type: redis}}\n",
            count,
        )


async def _fill(url: str, count: int) -> None:
    store = RedisKeyStore(connect(url, timeout_s=10))
    kept = records(count)
    for start in range(0, count, 1000):
        await store.put(kept[start : start + 1000])
    await store.close()


if __name__ == "__main__":
    main()
