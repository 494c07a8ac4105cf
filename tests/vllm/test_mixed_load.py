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

from testkit.redis_server import redis_server
from testkit.running_gateway import ROOT, RunningGateway, running_gateway
from tests.vllm.conftest import Vllm

pytestmark = pytest.mark.vllm

KEY = "sk-vllm-mixed-load-1"
CALLS, CLIENTS, LEAVING = 500, 16, 60
LEAVING_CLIENTS = 1
"""With more of them vLLM, on two cores, has made everything before a client gets to leave."""
LONGEST = 1500
PROMPTS = 5
"""More than the answers to one prompt are, so that records tell the two apart."""
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


def whole(model: str, chance: random.Random) -> list[Ask]:
    """Every dialect, whole and streamed, one answer and several, usage asked for, forbidden and not mentioned."""
    return [_ask(model, chance) for _ in range(CALLS - LEAVING)]


def left(model: str, chance: random.Random) -> list[Ask]:
    """Long streams of every dialect whose clients hang up."""
    return [_left(model, chance, number % 5) for number in range(LEAVING)]


def _left(model: str, chance: random.Random, kind: int) -> Ask:
    lines = chance.randint(1, 30)
    streamed = {"stream": True, "max_tokens": LONGEST, "ignore_eos": True}
    if kind < 2:
        return Ask("/v1/chat/completions", {**_chat(model, chance), **streamed, "n": 1 + 2 * kind}, lines)
    if kind == 2:
        return Ask("/v1/completions", {"model": model, "prompt": _text(chance), **streamed}, lines)
    if kind == 3:
        return Ask("/v1/messages", {**_chat(model, chance), **streamed}, lines)
    body = {"model": model, "input": _text(chance), "stream": True, "max_output_tokens": LONGEST}
    return Ask("/v1/responses", body, lines)


def _ask(model: str, chance: random.Random) -> Ask:
    text, most = _text(chance), chance.randint(1, 40)
    stream = chance.random() < 0.5
    streamed: dict[str, Any] = {"stream": True} if stream else {}
    with_usage = {**streamed, **({"stream_options": chance.choice(OPTIONS)} if stream else {})}
    several = {"n": chance.randint(2, 4)} if chance.random() < 0.3 else {}
    kind = chance.randrange(4)
    if kind == 0:
        return Ask("/v1/chat/completions", {**_chat(model, chance), "max_tokens": most, **with_usage, **several})
    if kind == 1:
        listed = chance.random() < 0.3
        prompts = {"prompt": [_text(chance) for _ in range(PROMPTS)]} if listed else {"prompt": text, **several}
        body = {"model": model, "max_tokens": most, **with_usage, **prompts}
        return Ask("/v1/completions", body)
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


def _made(vllm: Vllm, gateway: RunningGateway, asks: list[Ask], clients: int) -> tuple[list[dict[str, Any]], int, int]:
    """The records of these calls, and the prompt and generated tokens that vLLM counted for them."""
    before, known = _counted(vllm), {r["request_id"] for r in gateway.records()}
    with ThreadPoolExecutor(clients) as threads:
        list(threads.map(lambda ask: ask.made(gateway), asks))
    prompt, generated = (after - first for after, first in zip(_counted(vllm), before, strict=True))
    return _answered(gateway, known, len(asks)), prompt, generated


def test_the_log_sums_up_to_what_vllm_counted(vllm: Vllm, gateway: RunningGateway) -> None:
    """To the token where clients stay. Where they leave, the residue is what vLLM made after the last event that came
    through, and, in dialects that do not count as they go, what an event holds more than a token."""
    chance = random.Random(500)
    answered, prompt, generated = _made(vllm, gateway, whole(vllm.model, chance), CLIENTS)
    assert sum(r["prompt_tokens"] * _times(r) for r in answered) == prompt
    assert sum(r["completion_tokens"] for r in answered) == generated
    assert _reported(gateway) == (sum(r["prompt_tokens"] for r in answered), generated)

    gone, prompt, generated = _made(vllm, gateway, left(vllm.model, chance), LEAVING_CLIENTS)
    aborted = [r for r in gone if r["aborted"]]
    assert len(aborted) > LEAVING / 6, "the others had ended before their clients left"
    for endpoint in sorted({r["endpoint"] for r in gone}):
        made = [r["completion_tokens"] for r in aborted if r["endpoint"] == endpoint]
        print(
            f"{endpoint}: {len(made)} left, {sum(m or 0 for m in made)} tokens recorded, {made.count(None)} without any"
        )
    residue = generated - sum(r["completion_tokens"] or 0 for r in gone)
    unknown = [r for r in gone if r["prompt_tokens"] is None]
    print(f"{generated} generated, {residue} of them unseen; the prompts of {len(unknown)} are not known")
    assert {r["endpoint"] for r in unknown} <= {"/v1/responses"}, "all others tell at their beginning"
    assert -64 * len(aborted) <= residue <= sum(r["max_tokens"] * r["n"] for r in aborted), (
        "no more than they asked for"
    )
    assert sum(r["prompt_tokens"] or 0 for r in gone if r["n"] == 1) <= prompt


def _times(record: dict[str, Any]) -> int:
    """How often vLLM's counter has the prompt: once for each answer to it, where its usage says it once."""
    return 1 if record["n"] == PROMPTS else int(record["n"])


def _answered(gateway: RunningGateway, known: set[str], number: int) -> list[dict[str, Any]]:
    """One record for each call."""

    def found() -> list[dict[str, Any]]:
        ours = [r for r in gateway.records() if r["status"] == 200 and r["user_id"] == "mixed"]
        return [r for r in ours if r["request_id"] not in known]

    deadline = time.monotonic() + 30
    while len(records := found()) < number:
        assert time.monotonic() < deadline, f"{len(records)} records of {number}"
        time.sleep(0.2)
    assert len({r["request_id"] for r in records}) == len(records) == number
    return records


def _reported(gateway: RunningGateway) -> tuple[int, int]:
    """What `gatehouse usage` says the user has used."""
    command = [sys.executable, "-m", "gatehouse.cli", "usage", "-c", str(gateway.directory / "gatehouse.yaml")]
    answer = subprocess.run([*command, "--by", "user", "--json"], cwd=ROOT, capture_output=True, check=True)
    (row,) = [row for row in json.loads(answer.stdout)["rows"] if row["user"] == "mixed"]
    return row["prompt_tokens"], row["completion_tokens"]
