"""A saturated model: how long premium waits while free floods it, first come first served and by weight.

    python -m benchmarks.saturation [--seconds 15] [--json]

A stand-in model server takes 8 requests at a time, 100 ms each, and queues the rest as vLLM does: in the order in which
they came or, like `vllm serve --scheduling-policy priority`, by `x-vllm-priority`. In front of it runs a whole gateway.
64 clients of tier free ask without a pause; 3 of tier premium (weight 4) ask too, each with a pause of 50 ms.
"""

import argparse
import asyncio
import json
import multiprocessing
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from testkit.ports import free_port
from testkit.running_gateway import running_gateway

SLOTS, TAKES_S = 8, 0.1
FLOOD, FEW, PAUSE_S = 64, 3, 0.05
CHAT = "/v1/chat/completions"
PREMIUM, FREE = "sk-bench-premium", "sk-bench-free"
WEIGHTS = {"premium": {"weight": 4}, "free": {"weight": 1}}
ALIKE: dict[str, Any] = {"premium": {}, "free": {}}
BOUNDED = {"concurrent_requests_per_backend": SLOTS, "queued_requests": 16}


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    by_priority: bool
    flooded: bool
    tiers: dict[str, Any]
    model: dict[str, Any] = field(default_factory=dict)


CASES = (
    Case("premium alone", False, False, ALIKE),
    Case("flooded, first come first served", False, True, ALIKE),
    Case("flooded, slots divided by weight", False, True, WEIGHTS, BOUNDED),
    Case("flooded, vLLM by priority", True, True, WEIGHTS),
    Case("flooded, both", True, True, WEIGHTS, BOUNDED),
)


class Model:
    """`SLOTS` requests at a time; the others queue by (priority, arrival), or by arrival alone."""

    def __init__(self, by_priority: bool) -> None:
        self._by_priority = by_priority
        self._running = 0
        self._waiting: asyncio.PriorityQueue[tuple[int, int, asyncio.Event]] = asyncio.PriorityQueue()
        self._arrivals = count()

    async def answer(self, request: web.Request) -> web.Response:
        await request.read()
        urgency = int(request.headers.get("x-vllm-priority", "0")) if self._by_priority else 0
        go = asyncio.Event()
        self._waiting.put_nowait((urgency, next(self._arrivals), go))
        self._admit()
        await go.wait()
        await asyncio.sleep(TAKES_S)
        self._running -= 1
        self._admit()
        return web.json_response({"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}})

    def _admit(self) -> None:
        while self._running < SLOTS and not self._waiting.empty():
            self._running += 1
            self._waiting.get_nowait()[2].set()


def serve(port: int, by_priority: bool) -> None:
    async def health(_request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_post(CHAT, Model(by_priority).answer)
    app.router.add_get("/health", health)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


@contextmanager
def model_server(by_priority: bool) -> Iterator[int]:
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(port, by_priority), daemon=True)
    process.start()
    try:
        yield port
    finally:
        process.kill()
        process.join()


class Told:
    """The results of one tier's clients."""

    def __init__(self) -> None:
        self.ms: list[float] = []
        self.statuses: Counter[int] = Counter()

    def summary(self, seconds: float) -> dict[str, Any]:
        cuts = statistics.quantiles(self.ms, n=100) if len(self.ms) > 1 else [0.0] * 99
        refused = self.statuses[503]
        return {
            "answered_per_s": round(len(self.ms) / seconds, 1),
            "p50_ms": round(cuts[49]),
            "p99_ms": round(cuts[98]),
            "503_per_s": round(refused / seconds, 1),
            "other": sum(self.statuses.values()) - refused - self.statuses[200],
        }


async def client(url: str, key: str, told: Told, pause_s: float, until: float) -> None:
    """One caller, on its own connection; after a 503 it waits for the given time."""
    body = {"model": "m", "messages": []}
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session:
        while (began := time.monotonic()) < until:
            async with session.post(url + CHAT, json=body) as answer:
                await answer.read()
            told.statuses[answer.status] += 1
            if answer.status == 200:
                told.ms.append((time.monotonic() - began) * 1000)
            await asyncio.sleep(float(answer.headers.get("retry-after", pause_s)))


async def load(url: str, flooded: bool, seconds: float) -> dict[str, Any]:
    premium, free, until = Told(), Told(), time.monotonic() + seconds
    flood = [client(url, FREE, free, 0, until) for _ in range(FLOOD if flooded else 0)]
    await asyncio.gather(*flood, *(client(url, PREMIUM, premium, PAUSE_S, until) for _ in range(FEW)))
    return {"premium": premium.summary(seconds), "free": free.summary(seconds)}


def measured(case: Case, seconds: float) -> dict[str, Any]:
    with model_server(case.by_priority) as port, tempfile.TemporaryDirectory() as directory:
        config = {
            "models": {"m": {"backends": [{"url": f"http://127.0.0.1:{port}"}], **case.model}},
            "rate_limits": case.tiers,
            "api_keys": {PREMIUM: {"user_id": "p", "tier": "premium"}, FREE: {"user_id": "f", "tier": "free"}},
        }
        with running_gateway(Path(directory), config) as gateway:
            time.sleep(1.5)
            return asyncio.run(load(gateway.url, case.flooded, seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = {case.name: measured(case, options.seconds) for case in CASES}
    if options.json:
        print(json.dumps(found))
        return
    for name, tiers in found.items():
        for tier, told in tiers.items():
            print(f"{name:34} {tier:8} " + "  ".join(f"{key} {value:>7}" for key, value in told.items()))


if __name__ == "__main__":
    main()
