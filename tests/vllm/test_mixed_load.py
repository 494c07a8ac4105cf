"""Five hundred calls of every kind under load: what the request log sums up to is what vLLM has counted."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import pytest

from tests.redis_server import redis_server
from tests.running_gateway import ROOT, RunningGateway, running_gateway
from tests.vllm.conftest import Vllm

pytestmark = pytest.mark.vllm

KEY = "sk-vllm-mixed-load-1"
CALLS, CLIENTS, LEAVING = 500, 16, 60
LONGEST = 1500
PATIENCE = 8
"""How often a client calls before it believes a 503: vLLM takes all cores, and authz has but 200 ms."""
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog"]
OPTIONS: tuple[dict[str, Any], ...] = ({}, {"include_usage": True}, {"include_usage": False})


@dataclass(frozen=True)
class Ask:
    """One call: an endpoint, a body, and after how many lines the client hangs up, if it does."""

    path: str
    body: dict[str, Any]
    lines: int | None = None

    def made(self, gateway: RunningGateway) -> None:
        for _ in range(PATIENCE):
            headers = {"authorization": f"Bearer {KEY}"}
            url = gateway.url + self.path
            with httpx.stream("POST", url, json=self.body, headers=headers, timeout=180) as answer:
                if answer.status_code == 503:
                    answer.read()
                    continue
                if self.lines is None:
                    answer.read()
                else:
                    list(zip(range(self.lines), answer.iter_lines(), strict=False))
                assert answer.status_code == 200, answer.read()
                return
        raise AssertionError(f"503 {PATIENCE} times")


def mixed(model: str, chance: random.Random) -> list[Ask]:
    """Every dialect, whole and streamed, usage asked for, forbidden and not mentioned; some whose clients leave."""
    asks = [_ask(model, chance) for _ in range(CALLS - LEAVING)]
    for _ in range(LEAVING):
        body = _chat(model, chance) | {"stream": True, "max_tokens": LONGEST, "ignore_eos": True}
        asks.append(Ask("/v1/chat/completions", body, lines=chance.randint(1, 120)))
    chance.shuffle(asks)
    return asks


def _ask(model: str, chance: random.Random) -> Ask:
    text, most = _text(chance), chance.randint(1, 40)
    stream = chance.random() < 0.5
    streamed: dict[str, Any] = {"stream": True} if stream else {}
    with_usage = {**streamed, **({"stream_options": chance.choice(OPTIONS)} if stream else {})}
    kind = chance.randrange(4)
    if kind == 0:
        return Ask("/v1/chat/completions", {**_chat(model, chance), "max_tokens": most, **with_usage})
    if kind == 1:
        return Ask("/v1/completions", {"model": model, "prompt": text, "max_tokens": most, **with_usage})
    if kind == 2:
        return Ask("/v1/responses", {"model": model, "input": text, "max_output_tokens": most, **streamed})
    return Ask("/v1/messages", {**_chat(model, chance), "max_tokens": most, **streamed})


def _chat(model: str, chance: random.Random) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": _text(chance)}]}


def _text(chance: random.Random) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(1, 60)))


@pytest.fixture
def gateway(vllm: Vllm, tmp_path: Any) -> Iterator[RunningGateway]:
    config = {
        "models": {vllm.model: {"backends": [{"url": f"{vllm.url}/v1"}]}},
        "api_keys": {KEY: {"user_id": "mixed", "tier": "paid"}},
        "rate_limits": {"paid": {"requests_per_minute": 1_000_000, "tokens_per_hour": 10**9}},
    }
    with redis_server() as redis, running_gateway(tmp_path, {**config, "redis": {"url": redis.url}}) as running:
        yield running


def _counted(vllm: Vllm) -> tuple[int, int]:
    """Prompt and generated tokens by vLLM's own counters, once nothing runs there."""
    deadline = time.monotonic() + 60
    while (metrics := vllm.metrics())["vllm:num_requests_running"] > 0:
        assert time.monotonic() < deadline, "vLLM still runs a request"
        time.sleep(0.2)
    return int(metrics["vllm:prompt_tokens_total"]), int(metrics["vllm:generation_tokens_total"])


def test_the_log_sums_up_to_what_vllm_counted(vllm: Vllm, gateway: RunningGateway) -> None:
    """The residue: tokens that vLLM made after the last chunk which reached the gateway, for clients that left."""
    before = _counted(vllm)
    asks = mixed(vllm.model, random.Random(500))
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(lambda ask: ask.made(gateway), asks))
    prompt, generated = (after - first for after, first in zip(_counted(vllm), before, strict=True))

    answered = _answered(gateway)
    assert sum(r["prompt_tokens"] for r in answered) == prompt
    residue = generated - sum(r["completion_tokens"] for r in answered)
    aborted = [r for r in answered if r["aborted"]]
    print(f"{prompt} prompt, {generated} generated; {len(aborted)} left, {residue} generated for nobody")
    assert 0 <= residue <= 32 * len(aborted), "more than a moment of generation for each who left"
    assert _reported(gateway) == (sum(r["prompt_tokens"] for r in answered), generated - residue)


def _answered(gateway: RunningGateway) -> list[dict[str, Any]]:
    """One record for each call."""
    deadline = time.monotonic() + 30
    while len(found := [r for r in gateway.records() if r["status"] == 200 and r["user_id"] == "mixed"]) < CALLS:
        assert time.monotonic() < deadline, f"{len(found)} records of {CALLS}"
        time.sleep(0.2)
    assert len({r["request_id"] for r in found}) == len(found) == CALLS
    return found


def _reported(gateway: RunningGateway) -> tuple[int, int]:
    """What `gatehouse usage` says the user has used."""
    command = [sys.executable, "-m", "gatehouse.cli", "usage", "-c", str(gateway.directory / "gatehouse.yaml")]
    answer = subprocess.run([*command, "--by", "user", "--json"], cwd=ROOT, capture_output=True, check=True)
    (row,) = [row for row in json.loads(answer.stdout)["rows"] if row["user"] == "mixed"]
    return row["prompt_tokens"], row["completion_tokens"]
