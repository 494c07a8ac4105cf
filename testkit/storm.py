"""A storm of calls on real ratelimit workers, without Envoy: 200 gRPC clients, and the answers they got."""

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import yaml
from grpc import aio

from gatehouse.contract.names import DOMAIN
from gatehouse.pb.rls_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service.store.limits import Algorithm

ROOT = Path(__file__).parents[1]
METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
WORKERS, CHANNELS, CLIENTS = 2, 8, 200
HOUR_S = 3600
DEADLINE_S = 60.0


def settings(url: str, limit: int, algorithm: Algorithm = Algorithm.SLIDING_WINDOW) -> dict[str, Any]:
    """One tier with one limit, and nothing else that is not by default."""
    return {
        "vllm": {"base_url": "http://127.0.0.1:1/v1"},
        "api_keys": {"sk-limits-exact-0001": {"user_id": "alice", "tier": "paid"}},
        "rate_limits": {"paid": {"algorithm": algorithm.value, "requests_per_hour": limit}},
        "redis": {"url": url},
    }


@asynccontextmanager
async def limiter(config: Mapping[str, Any]) -> AsyncIterator[list[Any]]:
    """`python -m ratelimit_service` with two workers; yields ShouldRateLimit over a few connections to each."""
    # The path of a unix socket has 100 bytes; the temporary directories of pytest are longer than most.
    directory = Path(tempfile.mkdtemp(prefix="gh-limits-"))
    file, run_dir = directory / "gatehouse.yaml", directory / "run"
    file.write_text(yaml.safe_dump({**config, "logging": {"dir": str(directory / "logs")}}))
    command = [sys.executable, "-m", "ratelimit_service", "-c", str(file), "--run-dir", str(run_dir)]
    process = await asyncio.create_subprocess_exec(*command, "--workers", str(WORKERS), cwd=ROOT)
    try:
        async with AsyncExitStack() as channels:
            options = [("grpc.use_local_subchannel_pool", 1)]  # else channels to one address share a connection
            calls = []
            for i in range(CHANNELS):
                target = f"unix:{run_dir / f'ratelimit-{i % WORKERS}.sock'}"
                channel = await channels.enter_async_context(aio.insecure_channel(target, options))
                await asyncio.wait_for(channel.channel_ready(), DEADLINE_S)
                calls.append(
                    channel.unary_unary(METHOD, RateLimitRequest.SerializeToString, RateLimitResponse.FromString)
                )
            yield calls
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 30)
        shutil.rmtree(directory)


@dataclass
class Heard:
    """The answers to one user's clients: the places left after each admission, refusals, and errors."""

    left: list[int] = field(default_factory=list)
    refused: int = 0
    unknown: int = 0
    degraded: int = 0  # of those that were answered

    @property
    def admitted(self) -> int:
        return len(self.left)

    @property
    def answered(self) -> int:
        return self.admitted + self.refused

    @property
    def given_twice(self) -> int:
        """How many admissions took a place that another one had taken."""
        return self.admitted - len(set(self.left))

    @property
    def facts(self) -> str:
        counts = f"{self.admitted} admitted, {self.refused} refused, {self.unknown} unknown, {self.degraded} degraded"
        return f"{counts}, {self.given_twice} places given twice"

    async def ask(self, call: Any, user: str) -> bool:
        """Make one call; whether it was answered. A refusal that names no limit comes from a limiter without Redis."""
        try:
            answer = await call(request(user), timeout=DEADLINE_S)
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            self.unknown += 1
            return False
        headers = {header.key: header.value for header in answer.response_headers_to_add}
        self.degraded += "x-ratelimit-degraded" in headers
        if answer.overall_code == RateLimitResponse.OK:
            self.left.append(int(headers["x-ratelimit-remaining-hour"]))
        elif "limited_by" in answer.dynamic_metadata.fields:
            assert answer.dynamic_metadata["limited_by"] == "requests_per_hour"
            self.refused += 1
        else:
            self.unknown += 1
            return False
        return True


def request(user: str) -> RateLimitRequest:
    message = RateLimitRequest(domain=DOMAIN)
    entries = message.descriptors.add().entries
    for key, value in (("user", user), ("team", "-"), ("tier", "paid"), ("key_id", "k"), ("model", "-")):
        entries.add(key=key, value=value)
    return message


async def storm(calls: Sequence[Any], heard: Mapping[str, Heard], enough: Callable[[Heard], bool]) -> None:
    """200 clients at once, spread over the users of `heard`, until each of these has heard enough."""

    async def client(number: int) -> None:
        user, call = users[number % len(users)], calls[number % len(calls)]
        while not enough(heard[user]):
            if not await heard[user].ask(call, user):
                await asyncio.sleep(0.05)

    users = list(heard)
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*map(client, range(CLIENTS)))


async def clear_of_the_end_of_an_hour() -> None:
    """A fixed window is exact within its hour, so a test must not straddle two."""
    rest_s = HOUR_S - time.time() % HOUR_S
    if rest_s < DEADLINE_S / 4:
        await asyncio.sleep(rest_s)


@contextmanager
def cpu_hogs(count: int = 2) -> Iterator[None]:
    """`count` processes that each keep a CPU busy."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
