"""SIGHUP: read the configuration again and open the logs again; SIGUSR1: the latter; others end nobody.

A terminal that is closed still ends what runs in it.
"""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
import yaml

from testkit.fakes.fake_vllm import FakeVllm
from testkit.fakes.script import Script
from testkit.lines import complete_lines
from testkit.ports import free_port
from testkit.running_gateway import ROOT, RunningGateway, running_gateway
from testkit.waiting import until
from tests.integration.conftest import LIMITED, MODEL, short_form

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
HEADERS = {"authorization": f"Bearer {LIMITED}"}
CHAT = "/v1/chat/completions"
PORTAL = ("portal-0", "portal-1")
OTHERS = [signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO, signal.SIGPWR]


@pytest.fixture(scope="module")
def backend() -> Iterator[FakeVllm]:
    with FakeVllm((MODEL,)) as fake:
        yield fake


@pytest.fixture(scope="module")
def gateway(backend: FakeVllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(tmp_path_factory.mktemp("signals"), short_form(backend)) as running:
        yield running


def status(url: str) -> int:
    return httpx.post(url + CHAT, json=BODY, headers=HEADERS).status_code


def reloads(gateway: RunningGateway) -> float:
    return gateway.metric("api_config_reloads_total", result="applied")


def test_what_asks_for_something_ends_nobody_and_cuts_no_stream(gateway: RunningGateway, backend: FakeVllm) -> None:
    backend.script = Script(event_delay_s=0.03)
    children, before = gateway.children(), reloads(gateway)
    body = {**BODY, "stream": True, "max_tokens": 60, "ignore_eos": True}
    with httpx.stream("POST", gateway.url + CHAT, json=body, headers=HEADERS) as answer:
        for number in (signal.SIGHUP, signal.SIGUSR1, *OTHERS):
            for pid in (gateway.process.pid, *(children[name] for name in ("authz-0", "accesslog-0", *PORTAL))):
                os.kill(pid, number)
        lines = [line for line in answer.iter_lines() if line]
    backend.script = Script()
    assert lines[-1] == "data: [DONE]"
    assert gateway.children().items() >= {k: v for k, v in children.items() if k != "prefork"}.items()
    assert status(gateway.url) == 200
    until(lambda: reloads(gateway) > before, 3, "the configuration, read again")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_logs_are_opened_again(gateway: RunningGateway, number: signal.Signals) -> None:
    path = gateway.directory / "logs" / "envoy_access.log"
    path.rename(f"{path}.{number}")
    gateway.process.send_signal(number)
    assert status(gateway.url) == 200
    until(path.exists, 2, "a new file")


def test_a_file_that_looks_the_same_is_read_again(gateway: RunningGateway) -> None:
    """As nothing else could tell."""
    file = gateway.directory / "gatehouse.yaml"
    document = yaml.safe_load(file.read_text())
    document["api_keys"]["sk-new-key-1234567890"] = {"user_id": "new", "tier": "unlimited"}
    before = reloads(gateway)
    file.write_text(yaml.safe_dump(document))
    gateway.process.send_signal(signal.SIGHUP)
    headers = {"authorization": "Bearer sk-new-key-1234567890"}
    until(lambda: httpx.post(gateway.url + CHAT, json=BODY, headers=headers).status_code == 200, 2, "the new key")
    until(lambda: reloads(gateway) > before, 2)


def test_a_service_by_itself_passes_it_on_and_lives(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    file, keys = tmp_path / "gatehouse.yaml", tmp_path / "keys.yaml"
    keys.write_text("{}")
    config = {"vllm": {"base_url": "http://localhost:1/v1"}, "logging": {"dir": str(tmp_path / "logs")}}
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "accesslog_service", "-c", str(file), "--run-dir", str(tmp_path / "run")]
    service = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        until((tmp_path / "run" / "accesslog-1.sock").exists, 20, "it runs")
        for number in (signal.SIGHUP, signal.SIGUSR1, *OTHERS):
            service.send_signal(number)

        def said() -> list[str]:
            lines = [line for path in (tmp_path / "logs").glob("app_*.log") for line in complete_lines(path)]
            return [each["process"] for each in map(json.loads, lines) if each["message"].startswith("SIGHUP")]

        until(lambda: sorted(said()) == ["accesslog", "accesslog-0", "accesslog-1"], 5, "a word of each")
        assert service.poll() is None
    finally:
        service.terminate()
        assert service.wait(20) == 0


def test_a_terminal_that_is_closed_ends_what_runs_in_it(backend: FakeVllm, tmp_path: Path) -> None:
    port = free_port()
    server = {"host": "127.0.0.1", "port": port, "metrics_port": 0, "drain_s": 1, "drain_notice_s": 0}
    document = {**short_form(backend), "server": server, "logging": {"dir": str(tmp_path / "logs")}}
    (tmp_path / "gatehouse.yaml").write_text(yaml.safe_dump(document))
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "gatehouse.cli", "up", "-c", str(tmp_path / "gatehouse.yaml")])
    try:
        until(lambda: status(f"http://127.0.0.1:{port}") == 200, 30, "a gateway")
        os.kill(pid, signal.SIGHUP)
        time.sleep(0.5)
        assert status(f"http://127.0.0.1:{port}") == 200
    finally:
        os.close(terminal)
    ended = until(lambda: os.waitpid(pid, os.WNOHANG), 20, "its end")
    assert ended[0] == pid or until(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid, 20, "its end")
