"""`gatehouse explain --body`: it says what then happens, and asks no model server."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from typer.testing import CliRunner

from gatehouse.cli import app
from testkit.fakes.fake_vllm import FakeVllm
from testkit.running_gateway import RunningGateway, running_gateway

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
KEY, FEW = "sk-explain-key-001", "sk-explain-key-002"
MODEL = "m"


@pytest.fixture(scope="module")
def gateway(backend: FakeVllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    backends = [{"url": f"{backend.url}/v1"}]
    config: dict[str, Any] = {
        "models": {MODEL: {"backends": backends, "aliases": ["também"]}, "other": {"backends": backends}},
        "api_keys": {
            KEY: {"user_id": "kim", "tier": "free"},
            FEW: {"user_id": "few", "tier": "free", "models": [MODEL]},
        },
        "rate_limits": {"free": {"tokens_per_day": 20_000}},
        "server": {"max_body_mb": 2, "max_json_values": 1000},
    }
    with running_gateway(tmp_path_factory.mktemp("explain"), config) as running:
        yield running


def explained(gateway: RunningGateway, body: bytes, tmp_path: Path, path: str = CHAT, key: str = KEY) -> dict[str, Any]:
    file = tmp_path / "body.json"
    file.write_bytes(body)
    config = str(gateway.directory / "gatehouse.yaml")
    arguments = ["explain", "--key", key, "--body", str(file), "--endpoint", path, "--json", "-c", config]
    said = CliRunner(env={**os.environ}).invoke(app, arguments)
    assert said.exit_code == 0, said.output
    found: dict[str, Any] = json.loads(said.stdout)
    return found


def request(**members: Any) -> bytes:
    return json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **members}).encode()


CASES: dict[str, tuple[str, bytes]] = {
    "good": (CHAT, request(max_tokens=5)),
    "an alias": (CHAT, request(model="também")),
    "the model twice": (CHAT, b'{"model":"nobody",' + request()[1:]),
    "an escaped name": (CHAT, request().replace(b'"model"', b'"mod\\u0065l"')),
    "no JSON": (CHAT, b'{"model":"m",}'),
    "nothing": (CHAT, b""),
    "stream maybe": (CHAT, request(stream="maybe")),
    "half a token": (CHAT, request(max_tokens=3000.5)),
    "in the background": (RESPONSES, request(input="x", background=True)),
    "no model": (CHAT, b'{"messages":[]}'),
    "an empty model": (CHAT, request(model="")),
    "an unknown model": (CHAT, request(model="nobody")),
    "too many values": (CHAT, request(x=[0] * 2000)),
    "too large": (CHAT, request(x="x" * 2**21)),
    "more than a day holds": (CHAT, request(max_tokens=50_000)),
    "many answers": (CHAT, request(max_tokens=3000, n=10)),
    "many prompts": (COMPLETIONS, json.dumps({"model": MODEL, "prompt": ["a"] * 30, "max_tokens": 900}).encode()),
    "another dialect's name": (RESPONSES, request(input="x", max_output_tokens=60_000)),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_explained_is_what_happens(
    gateway: RunningGateway, backend: FakeVllm, tmp_path: Path, case: str
) -> None:
    path, body = CASES[case]
    before = len(backend.requests)
    answer = explained(gateway, body, tmp_path, path)["answer"]
    assert len(backend.requests) == before, "a model server was asked"
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    real = httpx.post(gateway.url + path, content=body, headers=headers)
    assert answer["status"] == real.status_code, (answer, real.text)
    if real.status_code != 200:
        error = real.json()["error"]
        assert answer["why"].startswith(f"{error['code']}: ")
        assert error["message"][:40] in answer["why"]


def test_it_says_what_the_request_asks_for_and_what_is_held_back(gateway: RunningGateway, tmp_path: Path) -> None:
    body = request(max_completion_tokens="300", max_tokens=7, n=2.0, stream="yes")
    asked = explained(gateway, body, tmp_path)["request"]
    assert {**asked, "prompt_bytes": None} == {
        "model": MODEL,
        "stream": True,
        "max_tokens": 300,
        "choices": 2,
        "prompt_bytes": None,
        "images": 0,
        "guess": {"input": -(-len(body) // 4), "output": 600},
    }


def test_a_model_that_the_key_may_not_use_is_403(gateway: RunningGateway, tmp_path: Path) -> None:
    answer = explained(gateway, request(model="other"), tmp_path, key=FEW)["answer"]
    assert (answer["status"], answer["why"].split(":")[0]) == (403, "model_not_allowed")


def test_key_and_body_may_both_come_from_standard_input(gateway: RunningGateway) -> None:
    arguments = ["explain", "--key", "-", "--body", "-", "-c", str(gateway.directory / "gatehouse.yaml")]
    said = CliRunner(env={**os.environ}).invoke(app, arguments, input=KEY + "\n" + request(max_tokens=5).decode())
    assert said.output.startswith("200 the model server would be asked")
    assert "max_tokens 5" in said.output


def test_a_model_is_named_once(gateway: RunningGateway) -> None:
    arguments = [
        "explain",
        "--key",
        KEY,
        "--model",
        "m",
        "--body",
        "-",
        "-c",
        str(gateway.directory / "gatehouse.yaml"),
    ]
    said = CliRunner(env={**os.environ}).invoke(app, arguments, input="{}")
    assert said.exit_code != 0
    assert "leave --model out" in said.output
