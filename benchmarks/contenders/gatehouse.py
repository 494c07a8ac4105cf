"""Gatehouse in full: keys, four windows in a Redis of its own, settlement of tokens, both logs, metrics."""

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.clients.request import BODY, HEADERS, PATH
from benchmarks.contenders.contender import Contender, Running
from benchmarks.machine import GATEWAY_CPUS, free_port, running, wait_until_answers
from benchmarks.store import redis
from benchmarks.upstream import MODEL
from gatehouse.config.model import Config

KEY = "sk-benchmark-00000000"
MUCH = 4_000_000_000
"""Nothing is refused, but everything is counted."""
_LIMITS = ("requests_per_minute", "requests_per_hour", "tokens_per_minute", "tokens_per_day")


@contextmanager
def start(
    folder: Path, upstream: str, *, keys: int = 10, models: int = 1, name: str = "Gatehouse"
) -> Iterator[Running]:
    """A gateway with `keys` keys and `models` models."""
    with redis(folder) as store:
        port = free_port()
        file = folder / "gatehouse.yaml"
        file.write_text(_config(folder, upstream, port, keys, models))
        command: list[str | Path] = [sys.executable, "-m", "gatehouse.cli", "up", "-c", file, "--json"]
        with running(command, folder, GATEWAY_CPUS) as pid:
            url = f"http://127.0.0.1:{port}"
            headers = {"authorization": f"Bearer {KEY}"}
            start_s = wait_until_answers(url + PATH, {**HEADERS, **headers}, BODY, pid)
            yield Running(name, url, (pid, store), headers, start_s, role)


def _config(folder: Path, upstream: str, port: int, keys: int, models: int) -> str:
    """JSON is YAML."""
    names = [*(f"model-{n}" for n in range(1, models)), MODEL]  # Envoy tries routes in this order: the worst case
    document = {
        "server": {"host": "127.0.0.1", "port": port, "metrics_port": free_port(), "drain_s": 1},
        "models": {name: {"backends": [{"url": f"{upstream}/v1"}]} for name in names},
        "default_model": MODEL,
        "rate_limits": {"paid": dict.fromkeys(_LIMITS, MUCH)},
        "redis": {"url": f"unix://{folder}/redis.sock"},
        "logging": {"dir": str(folder / "logs")},
    }
    Config.model_validate(document)
    lines = [json.dumps(document)[:-1] + ', "api_keys": {']
    lines += [_key(n) + ("," if n + 1 < keys else "}}") for n in range(keys)]
    return "\n".join(lines)


def _key(number: int) -> str:
    digest = hashlib.sha256(f"sk-benchmark-{number:08}".encode()).hexdigest()
    principal = {"name": f"key-{number}", "user_id": f"user-{number % 5000}", "tier": "paid"}
    return f'"sha256:{digest}": {json.dumps(principal)}'


def role(command: list[str]) -> str:
    """What a process of the gateway does."""
    line = " ".join(command)
    for name in ("authz", "ratelimit", "accesslog", "portal"):
        if f"{name}_service" in line:
            return name
    return "redis" if "redis-server" in line else "envoy" if "--concurrency" in line else "supervisor"


FULL = Contender("Gatehouse", start)
