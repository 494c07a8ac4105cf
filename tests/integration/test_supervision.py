"""`gatehouse up`: what dies comes back, what stops leaves nothing, and the two commands keep their word."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.fakes.script import Script
from testkit.ports import free_port
from testkit.running_gateway import ROOT, RunningGateway, running_gateway
from testkit.waiting import until
from tests.integration.conftest import LIMITED, MODEL, short_form

CHAT = "/v1/chat/completions"
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
HEADERS = {"authorization": f"Bearer {LIMITED}"}
PROCESSES = ["authz-0", "authz-1", "ratelimit-0", "accesslog-0", "accesslog-1", "portal-0", "portal-1", "envoy"]


def works(gateway: RunningGateway) -> bool:
    try:
        return httpx.post(gateway.url + CHAT, json=BODY, headers=HEADERS, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def refused(url: str) -> bool:
    try:
        httpx.get(f"{url}/health", timeout=2)
    except httpx.HTTPError:
        return True
    return False


@pytest.mark.parametrize("name", PROCESSES)
def test_f27_what_is_killed_is_back_within_3_s(gateway: RunningGateway, name: str) -> None:
    pid = gateway.children()[name]
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: gateway.children().get(name) not in (pid, None) and works(gateway), 3, name)
    time.sleep(max(0.0, killed + 3 - time.monotonic()))
    answer = httpx.post(gateway.url + CHAT, json=BODY, headers=HEADERS)
    assert gateway.record(answer.headers["x-request-id"])["status"] == 200


@pytest.mark.parametrize("name", ["authz-0", "ratelimit-0", "accesslog-0"])
def test_a_sidecar_that_is_killed_costs_no_request_and_no_stream(
    gateway: RunningGateway, backend: FakeVllm, name: str
) -> None:
    time.sleep(1)  # let the last victim's health check pass
    backend.script = Script(event_delay_s=0.02)
    statuses: list[int] = []
    streamed: list[str] = []

    def stream() -> None:
        body = {**BODY, "stream": True, "max_tokens": 60, "ignore_eos": True}
        with httpx.stream("POST", gateway.url + CHAT, json=body, headers=HEADERS) as answer:
            streamed.extend(line for line in answer.iter_lines() if line)

    running = threading.Thread(target=stream)
    running.start()
    time.sleep(0.3)
    os.kill(gateway.children()[name], signal.SIGKILL)
    with gateway.client(headers=HEADERS) as client:
        statuses = [client.post(CHAT, json={**BODY, "max_tokens": 1}).status_code for _ in range(50)]
    running.join()
    backend.script = Script()
    assert set(statuses) == {200}
    assert streamed[-1] == "data: [DONE]"


def test_f27_a_zygote_that_is_killed_costs_no_request_and_workers_are_started_without_it(
    backend: FakeVllm, tmp_path: Path
) -> None:
    with running_gateway(tmp_path, short_form(backend)) as running:
        before = running.children()
        os.kill(before.pop("prefork"), signal.SIGKILL)
        with running.client(headers=HEADERS) as client:
            assert {client.post(CHAT, json={**BODY, "max_tokens": 1}).status_code for _ in range(20)} == {200}
        assert running.children().items() >= before.items()
        os.kill(before["ratelimit-0"], signal.SIGKILL)
        killed = (before["ratelimit-0"], None)
        until(lambda: running.children().get("ratelimit-0") not in killed and works(running), 5)
        assert running.stop() == 0


def test_an_envoy_log_of_its_own_has_every_request(gateway: RunningGateway) -> None:
    answer = httpx.post(gateway.url + CHAT, json=BODY, headers=HEADERS)
    until(lambda: answer.headers["x-request-id"] in (gateway.directory / "logs/envoy_access.log").read_text())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_lets_a_stream_finish_and_leaves_nothing(
    backend: FakeVllm, tmp_path: Path, number: signal.Signals
) -> None:
    """SIGINT as a terminal sends it on Ctrl-C: to the whole process group."""
    with running_gateway(tmp_path, short_form(backend)) as running:
        children, run_dir = running.children(), running.run_dir().path
        assert children.keys() - {"prefork"} == set(PROCESSES)
        backend.script = Script(event_delay_s=0.05)
        body = {**BODY, "stream": True, "max_tokens": 40, "ignore_eos": True}
        with httpx.stream("POST", running.url + CHAT, json=body, headers=HEADERS) as answer:
            lines = answer.iter_lines()
            next(lines)
            os.killpg(running.process.pid, number)
            until(lambda: refused(running.url), 1.5, "a closed port, while the stream runs")
            rest = [line for line in lines if line]
        backend.script = Script()
        assert rest[-1] == "data: [DONE]"
        assert running.stop() == 0
        assert running.record(answer.headers["x-request-id"])["completion_tokens"] == 40
        assert not [pid for pid in children.values() if Path(f"/proc/{pid}").exists()]
        assert not run_dir.exists()


def test_a_supervisor_that_is_killed_takes_its_children_along(backend: FakeVllm, tmp_path: Path) -> None:
    with running_gateway(tmp_path, short_form(backend)) as running:
        children = running.children()
        running.process.kill()
        running.process.wait()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children.values()), 15, "the end of them all")


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[RunningGateway]:
    config = {
        "vllm": {"base_url": f"http://127.0.0.1:{free_port()}/v1", "default_model": MODEL},
        "api_keys": {LIMITED: {"user_id": "lim"}},
    }
    with running_gateway(tmp_path, config, "--or-demo") as running:
        yield running


def test_without_a_model_server_the_demo_answers(demo: RunningGateway) -> None:
    answer = httpx.post(demo.url + CHAT, json=BODY, headers=HEADERS)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"]
    assert "demo" in demo.children()


def test_a_model_server_that_answers_is_used_instead_of_the_demo(backend: FakeVllm, tmp_path: Path) -> None:
    environment = {"VLLM_BASE_URL": f"{backend.url}/v1"}
    config = {"vllm": {"base_url": "http://127.0.0.1:1/v1"}, "api_keys": {LIMITED: {"user_id": "lim"}}}
    with running_gateway(tmp_path, config, "--or-demo", environment=environment) as running:
        assert works(running)
        assert "demo" not in running.children()


def run_up(directory: Path, text: str) -> "subprocess.CompletedProcess[str]":
    (directory / "gatehouse.yaml").write_text(text)
    command = [sys.executable, "-m", "gatehouse.cli", "up", "-c", str(directory / "gatehouse.yaml")]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=ROOT, check=False)


def test_a_bad_configuration_is_status_2_with_file_line_and_reason(tmp_path: Path) -> None:
    result = run_up(tmp_path, "vllm: {base_url: 'http://h/v1'}\nserver:\n  prot: 1\n")
    assert result.returncode == 2
    assert "gatehouse.yaml:3: server.prot: unknown field (did you mean 'port'?)" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_taken_port_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run_up(
            tmp_path, f"vllm: {{base_url: 'http://h/v1'}}\nserver: {{host: 127.0.0.1, port: {port}, metrics_port: 0}}\n"
        )
    assert result.returncode == 1
    assert f"can't listen on 127.0.0.1:{port}" in result.stderr
    assert "GATEHOUSE_SERVER__PORT" in result.stderr
