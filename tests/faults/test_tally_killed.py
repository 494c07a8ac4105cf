"""Receivers are killed while they record, and the portal while it counts: what is counted is what is recorded."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx

from testkit.fakes.fake_vllm import FakeVllm
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until

KEY = "sk-tally-0001"
ROUNDS, CALLS = 4, 20


def used_today(gateway: RunningGateway) -> dict[str, Any]:
    with gateway.client() as client:
        found: dict[str, Any] = client.get("/v1/usage", headers={"Authorization": f"Bearer {KEY}"}).json()["today"]
    return found


def recorded(gateway: RunningGateway) -> dict[str, int]:
    own = [each for each in gateway.records() if each["user_id"] and each["method"] == "POST"]
    fields = ("prompt_tokens", "completion_tokens")
    return {"requests": len(own), **{field: sum(each[field] or 0 for each in own) for field in fields}}


def call(client: httpx.Client, times: int) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "count me"}]}
    for _ in range(times):
        assert client.post("/v1/chat/completions", json=body, headers={"x-api-key": KEY}).is_success


def test_f07_the_tally_is_the_log_whoever_is_killed(tmp_path: Path) -> None:
    with FakeVllm(("m",)) as backend:
        config = {
            "vllm": {"base_url": f"{backend.url}/v1", "default_model": "m"},
            "api_keys": {KEY: {"user_id": "u", "tier": "open"}},
            "rate_limits": {"open": {}},
        }
        with running_gateway(tmp_path, config) as gateway, gateway.client() as client:
            for round_ in range(ROUNDS):
                before = recorded(gateway)["requests"]
                call(client, CALLS)
                until(lambda before=before: recorded(gateway)["requests"] == before + CALLS, what="every record")
                call(client, CALLS)  # some of these are under way to the one that is killed
                children = gateway.children()
                for service in ("accesslog", "portal"):
                    os.kill(children[f"{service}-{round_ % 2}"], signal.SIGKILL)
                time.sleep(1.5)
            deadline = time.monotonic() + 20
            while (told := used_today(gateway)) and {k: told[k] for k in recorded(gateway)} != recorded(gateway):
                assert time.monotonic() < deadline, (told, recorded(gateway))
                time.sleep(0.5)
            assert told["requests"] >= ROUNDS * CALLS, "what was written outlives the kill"
