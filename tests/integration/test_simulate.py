"""The log of a real gateway, replayed against the limits that it ran with: the same requests are refused."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import yaml

from testkit.fakes.fake_vllm import FakeVllm
from testkit.fakes.script import Script
from testkit.running_gateway import ROOT, RunningGateway, running_gateway
from testkit.waiting import until

KEYS = {"sk-simulate-alice-1": "alice", "sk-simulate-bob-0001": "bob"}
MODEL = "m"


def settings(backend: FakeVllm, limits: dict[str, Any], **sections: Any) -> dict[str, Any]:
    price = {"input": 1.0, "output": 2.0}
    return {
        "models": {MODEL: {"backends": [{"url": f"{backend.url}/v1"}], "price_per_million_tokens": price}},
        "api_keys": {key: {"user_id": user, "tier": "paid", "team": "search"} for key, user in KEYS.items()},
        "rate_limits": {"paid": limits},
        **sections,
    }


def chat(gateway: RunningGateway, key: str, words: int = 3, **extra: Any) -> int:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "a " * words}], **extra}
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=30).status_code


def simulated(gateway: RunningGateway, config: Path) -> dict[str, str]:
    """Request id -> the limit that refuses it."""
    command = [sys.executable, "-m", "gatehouse.cli", "simulate", "-c", str(config), str(gateway.directory / "logs")]
    answer = subprocess.run([*command, "--json"], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60)
    return {refusal["request_id"]: refusal["limit"] for refusal in json.loads(answer.stdout)["refusals"]}


def recorded(gateway: RunningGateway, requests: int) -> list[dict[str, Any]]:
    """The records of so many requests with a key, in the order in which they began."""

    def found() -> list[dict[str, Any]]:
        return [record for record in gateway.records() if record["user_id"]]

    until(lambda: len(found()) == requests, what=f"{requests} records")
    return sorted(found(), key=lambda record: str(record["time"]))


def refused(gateway: RunningGateway, requests: int) -> dict[str, str]:
    return {r["request_id"]: r["limited_by"] for r in recorded(gateway, requests) if r["limited_by"]}


@pytest.mark.parametrize(
    "algorithm",
    ["sliding_window", *(pytest.param(other, marks=pytest.mark.slow) for other in ("fixed_window", "token_bucket"))],
)
def test_the_same_requests_are_refused_by_the_same_limits(backend: FakeVllm, tmp_path: Path, algorithm: str) -> None:
    limits = {"algorithm": algorithm, "requests_per_day": 7, "tokens_per_day": 900}
    users = {"bob": {"limits": {"budget_usd_per_month": 0.0012}}}
    with running_gateway(tmp_path, settings(backend, limits, users=users)) as gateway:
        for i in range(24):
            chat(gateway, list(KEYS)[i % 2], words=20 * (i % 5), stream=bool(i % 3))
            time.sleep(0.15)  # longer than the end of a request takes to be known
        really = refused(gateway, 24)
        assert 4 <= len(really) < 24
        assert len(set(really.values())) > 1, "several limits refuse"
        assert simulated(gateway, gateway.directory / "gatehouse.yaml") == really


def test_so_it_is_with_requests_that_run_at_the_same_time(backend: FakeVllm, tmp_path: Path) -> None:
    with running_gateway(tmp_path, settings(backend, {"concurrent_requests": 2})) as gateway:
        backend.script = Script(event_delay_s=0.2)
        assert chat(gateway, next(iter(KEYS)), stream=True) == 200
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(chat, gateway, key, stream=True) for key in list(KEYS) * 4]
            assert sorted(answer.result() for answer in answers) == [200] * 4 + [429] * 4
        backend.script = Script()
        really = refused(gateway, 9)
        said = simulated(gateway, gateway.directory / "gatehouse.yaml")
        # Which of those that come within one millisecond is first is not in the log; how many pass is.
        assert len(said) == len(really) == 4
        assert set(said.values()) == {"concurrent_requests"}


def test_other_limits_would_have_refused_others(backend: FakeVllm, tmp_path: Path) -> None:
    with running_gateway(tmp_path, settings(backend, {"requests_per_minute": 2})) as gateway:
        statuses = [chat(gateway, next(iter(KEYS))) for _ in range(6)]
        assert statuses == [200] * 2 + [429] * 4
        ids = [record["request_id"] for record in recorded(gateway, 6)]
        new = tmp_path / "new.yaml"
        new.write_text(yaml.safe_dump(settings(backend, {"requests_per_minute": 4})))
        assert simulated(gateway, new) == dict.fromkeys(ids[4:], "requests_per_minute")
