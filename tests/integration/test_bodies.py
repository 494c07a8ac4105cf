"""Bodies are on record for those who have asked for it, and nothing of them for others."""

import json
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from gatehouse.config import Config
from gatehouse.config.run_dir import RunDir
from gatehouse.contract import names
from gatehouse.envoy import merged
from gatehouse.envoy.bodies import MAX_BODY_BYTES
from testkit.fakes.fake_vllm import FakeVllm
from testkit.fakes.script import Script
from testkit.lines import complete_lines
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until
from tests.integration.conftest import FREE, MODEL, PREMIUM, short_form

CHAT = "/v1/chat/completions"
WRONG = "sk-wrong-key-00000001"


@contextmanager
def recording(directory: Path, backend: FakeVllm, **logging: Any) -> Iterator[RunningGateway]:
    config = {
        **short_form(backend),
        "logging": logging,
        "rate_limits": {"premium": {}, "free": {"requests_per_day": 1}},
    }
    config["api_keys"] = {PREMIUM: {"user_id": "dev-team", "tier": "premium"}, FREE: {"user_id": "f", "tier": "free"}}
    with running_gateway(directory, config) as running:
        yield running


def ask(gateway: RunningGateway, content: str, key: str = PREMIUM, **body: Any) -> httpx.Response:
    message = {"role": "user", "content": content}
    with gateway.client(headers={"authorization": f"Bearer {key}"}) as client:
        return client.post(CHAT, json={"model": MODEL, "messages": [message], "max_tokens": 3, **body})


def bodies(gateway: RunningGateway, at_least: int) -> list[dict[str, Any]]:
    def found() -> list[dict[str, Any]]:
        return [json.loads(line) for path in gateway.logs("bodies_*.log") for line in complete_lines(path)]

    until(lambda: len(found()) >= at_least, what=f"{at_least} bodies")
    return found()


@pytest.fixture
def script(backend: FakeVllm) -> Iterator[FakeVllm]:
    yield backend
    backend.script = Script()


def test_errors_are_recorded_with_both_bodies_and_nothing_else(tmp_path: Path, script: FakeVllm) -> None:
    with recording(tmp_path, script, bodies="errors") as gateway:
        assert ask(gateway, "a fine question").status_code == 200
        assert ask(gateway, "of a stranger", key=WRONG).status_code == 401
        ask(gateway, "once", key=FREE)
        assert ask(gateway, "too often", key=FREE).status_code == 429
        script.script = Script(status=500, body=b'{"error":{"message":"b\xff\nm"}}')
        failed = ask(gateway, 'quote " newline \n and \u2028')
        [body] = bodies(gateway, 1)
        assert body.keys() == {
            "time",
            "request_id",
            "endpoint",
            "status",
            "request",
            "request_cut",
            "response",
            "response_cut",
        }
        assert (body["request_id"], body["endpoint"], body["status"]) == (failed.headers["x-request-id"], CHAT, 500)
        assert json.loads(body["request"])["messages"][0]["content"] == 'quote " newline \n and \u2028'
        assert body["response"] == '{"error":{"message":"b\ufffd\nm"}}'
        [path] = gateway.logs("bodies_*.log")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not list(gateway.run_dir().bodies.iterdir())
        assert stat.S_IMODE(gateway.run_dir().bodies.stat().st_mode) == 0o700
        written = b"".join(path.read_bytes() for path in gateway.logs())
        assert PREMIUM.encode() not in written
        assert WRONG.encode() not in written


def test_a_body_that_waited_for_its_100_is_recorded_once(tmp_path: Path, script: FakeVllm) -> None:
    with recording(tmp_path, script, bodies="sampled", body_sample=1.0) as gateway:
        headers = {"authorization": f"Bearer {PREMIUM}", "expect": "100-continue"}
        with gateway.client(headers=headers) as client:
            asked = client.post(CHAT, json={"model": MODEL, "messages": [{"role": "user", "content": "once"}]})
        assert asked.status_code == 200
        bodies(gateway, 1)
        time.sleep(1)
        assert [body["response"] for body in bodies(gateway, 1)] == [asked.text]


def test_a_sample_is_recorded_and_long_bodies_are_cut(tmp_path: Path, script: FakeVllm) -> None:
    with recording(tmp_path, script, bodies="sampled", body_sample=0.5) as gateway:
        asked = [ask(gateway, "x" * 2 * MAX_BODY_BYTES, stream=number % 2 == 0) for number in range(60)]
        assert all(answer.status_code == 200 for answer in asked)
        gateway.records(60)
        time.sleep(1.5)
        found = bodies(gateway, 1)
        assert 12 < len(found) < 48, "half of 60, give or take"
        assert all(body["request_cut"] and len(body["request"]) == MAX_BODY_BYTES for body in found)
        by_id = {answer.headers["x-request-id"]: answer.text for answer in asked}
        assert all(body["response"] == by_id[body["request_id"]] for body in found), "as the client saw it"


def test_off_costs_nothing() -> None:
    config = Config.model_validate({"vllm": {"base_url": "http://localhost:8100/v1"}})
    assert names.TAP not in str(merged(config, RunDir(Path("/run/gatehouse")), "log"))
