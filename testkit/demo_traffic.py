"""A gateway in everyday use, watched by a real Prometheus: the data behind pages, dashboards and pictures.

Two model servers answer (demo ones), one replica is down and one model is gone; people and programs of three teams
call, some of them too often, one with a wrong key.
"""

import asyncio
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx2 as httpx
import pytest
import yaml

from testkit.identity_provider import AUDIENCE, IdentityProvider
from testkit.ports import free_port
from testkit.redis_server import RedisServer, redis_server
from testkit.running_gateway import ROOT, RunningGateway, running_gateway
from testkit.waiting import until

PROMETHEUS = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None, reason="needs Prometheus (Debian: apt-get install prometheus)"
)

RULES = ROOT / "deploy" / "prometheus"
SMALL, LARGE, EMBEDDER, GONE = "llama-8b", "llama-70b", "bge-m3", "mixtral"
CHAT, EMBED, RESPONSES, COMPLETE = "/v1/chat/completions", "/v1/embeddings", "/v1/responses", "/v1/completions"
TEXT = "Tell me how the tide follows the moon and why there are two of them a day " * 3


@dataclass(frozen=True)
class Caller:
    """A client that makes a call about every `pause_s` seconds."""

    user: str
    team: str | None
    tier: str
    model: str
    pause_s: float
    endpoint: str = CHAT
    stream: bool = True
    known: bool = True

    @property
    def key(self) -> str:
        return f"sk-demo-{self.user}-{self.tier}"

    def body(self) -> dict[str, Any]:
        words = " ".join(random.choices(TEXT.split(), k=random.randint(20, 60)))
        if self.endpoint == EMBED:
            return {"model": self.model, "input": words}
        text = {RESPONSES: {"input": words}, COMPLETE: {"prompt": words}}
        said = text.get(self.endpoint, {"messages": [{"role": "user", "content": words}]})
        return {"model": self.model, "stream": self.stream, **said}


CALLERS = (
    Caller("alice", "search", "premium", SMALL, 0.5),
    Caller("bob", "search", "standard", SMALL, 1.0, RESPONSES),
    Caller("carol", "assistants", "premium", LARGE, 0.8),
    Caller("dan", "assistants", "standard", LARGE, 1.5, COMPLETE, stream=False),
    Caller("indexer", "search", "premium", EMBEDDER, 0.3, EMBED, stream=False),
    Caller("erin", "marketing", "free", SMALL, 1.0),
    Caller("frank", None, "standard", GONE, 6.0),
    Caller("nobody", None, "free", SMALL, 3.0, known=False),
)


@dataclass
class Scene:
    """Run everything; `prometheus` is Prometheus' address."""

    gateway: RunningGateway
    prometheus: str
    redis: RedisServer

    def now(self, query: str) -> list[dict[str, Any]]:
        """What Prometheus answers to `query`: series, each with its `metric` (labels) and `value`."""
        return self._ask("query", query=query)

    def over(self, query: str, seconds: float, step_s: float) -> list[dict[str, Any]]:
        """The same over the last `seconds`: series with `values`."""
        end = time.time()
        return self._ask("query_range", query=query, start=end - seconds, end=end, step=step_s)

    def _ask(self, path: str, **params: Any) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.prometheus}/api/v1/{path}", params=params, timeout=20).json()
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def config(self) -> Path:
        return self.gateway.directory / "gatehouse.yaml"


@contextmanager
def scene(directory: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        idp = stack.enter_context(IdentityProvider())
        small = stack.enter_context(_model_server(SMALL, EMBEDDER, delay_ms=8))
        large = stack.enter_context(_model_server(LARGE, delay_ms=30))
        config = _config(redis, idp, small, large, directory)
        gateway = stack.enter_context(running_gateway(directory, config))
        yield Scene(gateway, stack.enter_context(_prometheus(gateway, directory)), redis)


def _config(redis: RedisServer, idp: IdentityProvider, small: str, large: str, directory: Path) -> dict[str, Any]:
    dead = "http://127.0.0.1:9/v1"
    cheap, dear = {"input": 0.2, "cached_input": 0.05, "output": 0.6}, {"input": 2.5, "output": 10.0}
    return {
        "models": {
            SMALL: {"backends": [{"url": small}, {"url": dead}], "price_per_million_tokens": cheap},
            LARGE: {"backends": [{"url": large}], "price_per_million_tokens": dear},
            EMBEDDER: {"backends": [{"url": small}], "price_per_million_tokens": {"input": 0.02, "output": 0}},
            GONE: {"backends": [{"url": dead}]},
        },
        "api_keys": {
            caller.key: {"user_id": caller.user, "tier": caller.tier, **({"team": caller.team} if caller.team else {})}
            for caller in CALLERS
            if caller.known
        },
        "rate_limits": {
            "premium": {"requests_per_minute": 600, "tokens_per_minute": 200_000, "budget_usd_per_month": 0.25},
            "standard": {"requests_per_minute": 120, "budget_usd_per_month": 5},
            "free": {"requests_per_minute": 20, "requests_per_hour": 100},
        },
        "teams": {"search": {"limits": {"tokens_per_day": 160_000}}},
        "redis": {"url": redis.url, "timeout_ms": 100},
        "key_store": {"type": "file", "path": str(directory / "keys.jsonl")},
        "jwt": [{"issuer": idp.issuer, "audience": AUDIENCE, "name": "sso", "tier": "standard", "refresh_s": 10}],
    }


@contextmanager
def _model_server(*models: str, delay_ms: float) -> Iterator[str]:
    port = free_port()
    names = [word for model in models for word in ("--model", model)]
    command = [sys.executable, "-m", "demo_model_server", "--port", str(port), "--delay-ms", str(delay_ms), *names]
    with _running(command):
        until(lambda: httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).is_success, 30)
        yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def _prometheus(gateway: RunningGateway, directory: Path) -> Iterator[str]:
    """It scrapes each second, and evaluates the rules that are shipped."""
    assert PROMETHEUS
    port = free_port()
    scraped = {"job_name": "gatehouse", "static_configs": [{"targets": [gateway.metrics_url.split("/")[2]]}]}
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "2s"},
        "rule_files": [str(RULES / "*.rules.yml")],
        "scrape_configs": [scraped],
    }
    file = directory / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    command = [PROMETHEUS, f"--config.file={file}", f"--storage.tsdb.path={directory / 'prometheus'}"]
    with _running([*command, f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]):
        until(lambda: httpx.get(f"http://127.0.0.1:{port}/-/ready", timeout=2).is_success, 30)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _running(command: list[str]) -> Iterator[None]:
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


async def load(url: str, seconds: float) -> int:
    """Run all callers for `seconds`; returns the number of calls."""
    async with aiohttp.ClientSession(url) as session:
        end = asyncio.get_running_loop().time() + seconds
        return sum(await asyncio.gather(*(_calls(session, caller, end) for caller in CALLERS)))


async def _calls(session: aiohttp.ClientSession, caller: Caller, end: float) -> int:
    """One call after the other, busier and quieter by turns; a call out of twenty is given up midway."""
    calls, loop = 0, asyncio.get_running_loop()
    while (now := loop.time()) < end:
        headers = {"Authorization": f"Bearer {caller.key}"}
        try:
            async with session.post(caller.endpoint, json=caller.body(), headers=headers) as answer:
                if random.random() > 0.05:
                    await answer.read()
        except aiohttp.ClientError:
            pass
        calls += 1
        busy = 0.6 if int(now / 30) % 2 else 1.4
        await asyncio.sleep(caller.pause_s * busy * random.uniform(0.5, 1.5))
    return calls
