"""What callers and operators can learn of limits without consuming any: `GET /v1/usage` and `gatehouse explain`."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.running_gateway import ROOT, RunningGateway, running_gateway

CHAT = "/v1/chat/completions"
ALICE, NARROW = "sk-usage-alice-0001", "sk-usage-narrow-001"


@pytest.fixture(scope="module")
def limited(backend: FakeVllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    price = {"input": 1.0, "output": 2.0}
    config = {
        "models": {"m": {"backends": [{"url": f"{backend.url}/v1"}], "price_per_million_tokens": price}},
        "api_keys": {
            ALICE: {"user_id": "alice", "tier": "paid", "team": "search", "name": "laptop"},
            NARROW: {"user_id": "nora", "tier": "paid", "models": ["other"]},
        },
        "rate_limits": {
            "paid": {
                "requests_per_minute": 3,
                "tokens_per_hour": 100_000,
                "concurrent_requests": 4,
                "budget_usd_per_month": 5,
            }
        },
        "teams": {"search": {"limits": {"requests_per_day": 1000}}},
    }
    with running_gateway(tmp_path_factory.mktemp("usage"), config) as running:
        yield running


def usage(gateway: RunningGateway, key: str = ALICE) -> httpx.Response:
    return httpx.get(f"{gateway.url}/v1/usage", headers={"authorization": f"Bearer {key}"})


def explain(gateway: RunningGateway, *arguments: str, **environment: str) -> tuple[int, dict[str, Any]]:
    config = str(gateway.directory / "gatehouse.yaml")
    command = [sys.executable, "-m", "gatehouse.cli", "explain", "-c", config, "--json", *arguments]
    seen = {**os.environ, **environment}
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=ROOT, env=seen, check=False)
    return result.returncode, json.loads(result.stdout or "{}")


def test_usage_shows_the_callers_own_limits_and_consumes_nothing(limited: RunningGateway) -> None:
    first, second = usage(limited).json(), usage(limited).json()
    assert {k: first[k] for k in ("object", "user", "team", "tier", "key_id")} == {
        "object": "usage",
        "user": "alice",
        "team": "search",
        "tier": "paid",
        "key_id": "laptop",
    }
    by_name = {limit["name"]: limit for limit in second["limits"]}
    assert by_name.keys() == {
        "requests_per_minute",
        "tokens_per_hour",
        "budget_usd_per_month",
        "team_requests_per_day",
        "concurrent_requests",
    }
    assert (by_name["requests_per_minute"]["limit"], by_name["requests_per_minute"]["used"]) == (3, 0)
    assert by_name["budget_usd_per_month"]["limit"] == 5.0
    assert second["refusal"] is None


def test_usage_without_a_key_is_401(limited: RunningGateway) -> None:
    assert httpx.get(f"{limited.url}/v1/usage").status_code == 401


def test_explain_says_why_a_request_would_be_refused(limited: RunningGateway, tmp_path: Path) -> None:
    status, passes = explain(limited, "--key", ALICE, "--model", "m")
    assert (status, passes["answer"]["status"]) == (0, 200)
    assert passes["identity"]["user"] == "alice"
    assert passes["backends"][0]["status"] == "healthy"
    assert explain(limited, "--key", NARROW, "--model", "m")[1]["answer"]["why"].startswith("model_not_allowed")
    assert explain(limited, "--key", "sk-wrong-key-000001", "--model", "m")[1]["answer"]["status"] == 401
    assert explain(limited, "--key", ALICE, "--model", "nope")[1]["answer"]["status"] == 404
    assert explain(limited, "--key", ALICE, "--model", "m", "--endpoint", "/metrics")[1]["answer"]["status"] == 404
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    answers = [httpx.post(limited.url + CHAT, json=body, headers={"x-api-key": ALICE}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    why = explain(limited, "--key", ALICE, "--model", "m")[1]["answer"]["why"]
    assert why.startswith("rate_limit_exceeded: Rate limit exceeded. Maximum 3 requests per minute")
    assert usage(limited).json()["refusal"]["code"] == "rate_limit_exceeded"


def test_no_proxy_sees_the_key_of_what_the_gateway_is_asked(limited: RunningGateway) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0.2)
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        status, found = explain(limited, "--key", NARROW, http_proxy=address, HTTP_PROXY=address, no_proxy="")
        assert (status, found["identity"]["tier"]) == (0, "paid")
        with pytest.raises(TimeoutError):
            proxy.accept()


def test_explain_of_a_gateway_that_is_not_there_says_so(limited: RunningGateway) -> None:
    status, _ = explain(limited, "--key", ALICE, "--url", "http://127.0.0.1:9")
    assert status == 1
