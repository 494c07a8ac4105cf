"""Receivers die, and nothing is lost for good."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from accesslog_service.rotation import Rotation
from gatehouse.gateway.envoy_admin import Admin
from testkit.fakes.fake_vllm import FakeVllm
from testkit.running_gateway import ROOT, RunningGateway, running_gateway
from testkit.waiting import until
from tests.integration.conftest import MODEL

CHAT = "/v1/chat/completions"
KEY = "sk-reconcile-0001"
REQUESTS = 2000


@pytest.fixture
def limited(backend: FakeVllm, tmp_path: Path) -> Iterator[RunningGateway]:
    config: dict[str, Any] = {
        "vllm": {"base_url": f"{backend.url}/v1", "default_model": MODEL},
        "api_keys": {KEY: {"user_id": "alice", "tier": "roomy"}},
        "rate_limits": {"roomy": {"tokens_per_day": 50_000_000}},
    }
    with running_gateway(tmp_path, config) as running:
        yield running


def reconcile(gateway: RunningGateway) -> dict[str, Any]:
    config = str(gateway.directory / "gatehouse.yaml")
    command = [sys.executable, "-m", "gatehouse.cli", "usage", "reconcile", "-c", config, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def used(gateway: RunningGateway) -> float:
    answer = httpx.get(f"{gateway.url}/v1/usage", headers={"x-api-key": KEY}).json()
    left: float = next(limit["used"] for limit in answer["limits"] if limit["name"] == "tokens_per_day")
    return left


def ask(client: httpx.Client, number: int) -> str:
    stream = number % 2 == 0
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "stream": stream}
    answer = client.post(CHAT, json=body, headers={"x-api-key": KEY})
    assert answer.status_code == 200
    request_id: str = answer.headers["x-request-id"]
    return request_id


def kill_receivers(gateway: RunningGateway, times: int, over: threading.Event) -> None:
    """Both at once, so that nobody is there to take what Envoy sends."""
    for _ in range(times):
        over.wait(random.uniform(0.8, 1.5))
        children = gateway.children()
        for name in ("accesslog-0", "accesslog-1"):
            if name in children:
                os.kill(children[name], signal.SIGKILL)


@pytest.mark.slow
def test_f07_receivers_killed_three_times_cost_no_record(limited: RunningGateway) -> None:
    over = threading.Event()
    killer = threading.Thread(target=kill_receivers, args=(limited, 3, over))
    with limited.client() as client, ThreadPoolExecutor(8) as pool:
        killer.start()
        asked = list(pool.map(lambda number: ask(client, number), range(REQUESTS)))
    killer.join()
    time.sleep(32)  # what ended in the last half minute is left alone
    before = Counter(record["request_id"] for record in limited.records() if record["endpoint"] == CHAT)
    report, again = reconcile(limited), reconcile(limited)
    records = [record for record in limited.records() if record["endpoint"] == CHAT]
    counts = Counter(record["request_id"] for record in records)
    assert counts == dict.fromkeys(asked, 1)
    assert report["restored"] >= REQUESTS - len(before) > 0, "nothing was lost: the test shows nothing"
    assert (again["restored"], again["unreadable"], report["untold"]) == (0, 0, 0)
    spent = sum(record["prompt_tokens"] + record["completion_tokens"] for record in records)
    assert used(limited) == spent


def test_what_envoy_has_sent_and_receivers_got_can_be_compared(gateway: RunningGateway) -> None:
    with gateway.client() as client:
        for _ in range(5):
            client.get("/v1/nowhere")
    openmetrics = {"accept": "application/openmetrics-text; version=1.0.0"}

    def told() -> tuple[float, ...]:
        answer = httpx.get(gateway.metrics_url, headers=openmetrics)
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        families = {family.name: family for family in text_string_to_metric_families(answer.text)}
        names = (f"api_access_log_{name}" for name in ("sent", "dropped", "entries"))
        return tuple(sum(sample.value for sample in families[name].samples) for name in names)

    def all_came() -> bool:
        sent, dropped, got = told()
        assert dropped == 0
        assert sent == got >= 5
        return True

    until(all_came)


def test_a_real_envoy_goes_on_in_a_new_file_after_the_rotation(gateway: RunningGateway) -> None:
    def asked() -> str:
        with gateway.client() as client:
            request_id: str = client.get("/v1/nowhere").headers["x-request-id"]
        return request_id

    def rotate() -> bool:
        admin = Admin(gateway.run_dir().admin_socket)
        rotation = Rotation(gateway.directory / "logs", 30, admin.ready, admin.reopen_logs)
        return asyncio.run(rotation.rotated(datetime.now(UTC).date()))

    def lines(path: Path, request_id: str) -> int:
        until(lambda: request_id in path.read_text(), what=f"{request_id} in {path}")
        return path.read_text().count(request_id)

    current = gateway.directory / "logs" / "envoy_access.log"
    before = asked()
    assert lines(current, before) == 1
    assert rotate()
    after = asked()
    assert lines(current, after) == 1
    [renamed] = gateway.logs("envoy_access_*.log")
    assert (before in renamed.read_text(), after in renamed.read_text()) == (True, False)
    assert before not in current.read_text()
