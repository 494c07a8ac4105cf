"""What a team writes for itself: FastAPI and httpx, two workers. `passthrough/app.py` is the whole program."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.clients.request import BODY, HEADERS, PATH
from benchmarks.contenders.contender import Contender, Running, python_environment
from benchmarks.machine import GATEWAY_CPUS, ROOT, free_port, running, wait_until_answers
from benchmarks.store import redis

_PACKAGES = ("fastapi==0.165.*", "httpx==0.28.*", "uvicorn[standard]==0.54.*", "redis[hiredis]==8.*")
_KEY = "sk-benchmark-00000000"


def _install() -> Path:
    return python_environment("fastapi", *_PACKAGES)


@contextmanager
def _start(folder: Path, upstream: str) -> Iterator[Running]:
    keys = {hashlib.sha256(_KEY.encode()).hexdigest(): {"user": "alice", "tier": "paid"}}
    (folder / "keys.json").write_text(json.dumps(keys))
    port = free_port()
    with redis(folder) as store:
        environment = {"UPSTREAM": upstream, "FOLDER": str(folder)}
        command: list[str | Path] = [
            _install() / "python",
            "-m",
            "uvicorn",
            "--app-dir",
            str(ROOT / "benchmarks" / "passthrough"),
            "app:app",
        ]
        command += ["--port", str(port), "--workers", "2", "--log-level", "warning", "--no-access-log"]
        with running(command, folder, GATEWAY_CPUS, environment) as pid:
            url, headers = f"http://127.0.0.1:{port}", {"authorization": f"Bearer {_KEY}"}
            start_s = wait_until_answers(url + PATH, {**HEADERS, **headers}, BODY, pid)
            yield Running("FastAPI + httpx", url, (pid, store), headers, start_s, _role)


def _role(command: list[str]) -> str:
    return "redis" if "redis-server" in " ".join(command) else "workers"


CONTENDER = Contender("FastAPI + httpx", _start, _install)
