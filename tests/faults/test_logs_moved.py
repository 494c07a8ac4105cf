"""`rm -rf logs/`, and what logrotate does: within a second all is written to new files, and nothing is lost unseen."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until

KEY = "sk-logs-0001"
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
ENVOYS, PAUSE_S = "envoy_access.log", 1.2


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with FakeVllm(("m",)) as backend:
        config = {
            "vllm": {"base_url": f"{backend.url}/v1", "default_model": "m"},
            "api_keys": {KEY: {"user_id": "u", "tier": "open"}},
            "rate_limits": {"open": {}},
        }
        with running_gateway(tmp_path_factory.mktemp("logs"), config) as running:
            yield running


def asked(gateway: RunningGateway, times: int = 5) -> list[str]:
    """Their request ids."""
    with gateway.client(headers={"x-api-key": KEY}) as client:
        return [client.post("/v1/chat/completions", json=BODY).headers["x-request-id"] for _ in range(times)]


def used(gateway: RunningGateway) -> int:
    with gateway.client(headers={"x-api-key": KEY}) as client:
        today: dict[str, Any] = client.get("/v1/usage").json()["today"]
        return int(today["requests"])


def written(gateway: RunningGateway) -> int:
    """Records of requests to models in the file of today."""
    return sum(record["endpoint"] == "/v1/chat/completions" for record in gateway.records())


def renamed(logs: Path) -> None:
    for path in [*logs.glob("*.log")]:
        path.rename(f"{path}.1")


def copied_and_cut(logs: Path) -> None:
    for path in [*logs.glob("*.log")]:
        shutil.copyfile(path, f"{path}.2")
        path.open("r+").truncate(0)


def removed(logs: Path) -> None:
    shutil.rmtree(logs)


def holds(gateway: RunningGateway, pattern: str, texts: list[str]) -> bool:
    said = "".join(path.read_text() for path in gateway.logs(pattern))
    return all(text in said for text in texts)


@pytest.mark.parametrize("how", [renamed, copied_and_cut, removed])
def test_logs_that_go_are_begun_anew(gateway: RunningGateway, how: Callable[[Path], None]) -> None:
    logs, count = gateway.directory / "logs", used(gateway)
    before = asked(gateway)
    until(lambda: used(gateway) == count + len(before), 5, "the tally")
    until(lambda: holds(gateway, ENVOYS, before), 5, "Envoy's log")
    meanwhile = asked(gateway)  # neither counted yet nor in Envoy's file
    how(logs)
    time.sleep(PAUSE_S)
    after = asked(gateway)
    until(lambda: holds(gateway, "requests_*.log", after), 2, "the request log")
    until(lambda: holds(gateway, ENVOYS, after), 3, "Envoy's log")
    assert logs.joinpath(".run_dir").exists()
    if how is removed:
        until(lambda: used(gateway) == written(gateway) >= len(after), 5, "the tally of what is left")
        until(lambda: holds(gateway, "app_*.log", ["was removed"]), 3, "a word on it")
    else:
        until(lambda: used(gateway) == count + len([*before, *meanwhile, *after]), 5, "the tally")
        assert holds(gateway, "requests_*", [*before, *meanwhile, *after])
        until(lambda: holds(gateway, f"{ENVOYS}*", [*before, *meanwhile, *after]), 3, "Envoy's log")
    assert gateway.metric("api_access_log_lost_total") == 0
