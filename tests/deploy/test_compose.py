"""`docker compose up -d` on a real engine, with the stub in place of vLLM: it answers, and bears every restart."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
import yaml

from testkit.ports import free_port
from tests.deploy.engine import DIRECTORY, Project, no_compose, no_engine, skip_if
from tests.deploy.load import CHAT, CUT, MODEL, body, load, long_stream

pytestmark = [pytest.mark.slow, pytest.mark.deploy]


@dataclass
class Deployed:
    """What was started, and a key that works there."""

    project: Project
    url: str
    operator_url: str
    prometheus_url: str
    config_file: Path
    key: str

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=30)

    def answers(self, client: httpx.Client, within_s: float = 20) -> float:
        """Seconds until a chat is answered with 200 again."""
        started = time.monotonic()
        while True:
            try:
                if client.post(CHAT, json=body(3, stream=False)).status_code == 200:
                    return time.monotonic() - started
            except httpx.TransportError:
                pass
            assert time.monotonic() - started < within_s
            time.sleep(0.1)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    skip_if(no_engine() or no_compose())
    directory = tmp_path_factory.mktemp("compose")
    config = directory / "config"
    config.mkdir(mode=0o755)
    document = yaml.safe_load((DIRECTORY / "config" / "gatehouse.yaml").read_text())
    document["rate_limits"]["premium"] = {"requests_per_minute": 1_000_000}
    (config / "gatehouse.yaml").write_text(yaml.safe_dump(document))
    directory.chmod(0o755)
    ports = {"PORT": free_port(), "METRICS_PORT": free_port(), "PROMETHEUS_PORT": free_port()}
    settings = {"CONFIG_DIR": str(config), **{name: str(port) for name, port in ports.items()}}
    project = Project("gatehouse-test", ["demo"], settings, directory)
    try:
        project.run("up", "--build", "--wait")
        made = project.run(
            "exec", "-T", "authz", "gatehouse", "keys", "create", "--user=alice", "--tier=premium", "--json"
        )
        url, metrics, prometheus = (f"http://127.0.0.1:{port}" for port in ports.values())
        yield Deployed(project, url, metrics, prometheus, config / "gatehouse.yaml", json.loads(made)["key"])
    finally:
        project.run("--profile", "observability", "down", "--volumes")
        assert project.leftovers() == []


@pytest.fixture
def client(deployed: Deployed) -> Iterator[httpx.Client]:
    with deployed.client() as client:
        deployed.answers(client)
        yield client


def test_everything_is_healthy(deployed: Deployed) -> None:
    services = ["render", "authz", "ratelimit", "accesslog", "portal", "envoy", "redis", "demo"]
    assert deployed.project.states() == dict.fromkeys(services, "healthy")


def test_nothing_runs_as_root_or_can_write_to_its_root_or_gain_rights(deployed: Deployed) -> None:
    for service in deployed.project.states():
        found = deployed.project.inspected(service)
        host = found["HostConfig"]
        assert found["Config"]["User"] not in ("", "0", "root"), service
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert "no-new-privileges:true" in host["SecurityOpt"], service


def test_only_envoy_is_reachable_from_other_machines(deployed: Deployed) -> None:
    open_to = {
        service: [place["HostIp"] for places in bindings.values() for place in places]
        for service in deployed.project.states()
        if (bindings := deployed.project.inspected(service)["HostConfig"]["PortBindings"])
    }
    assert open_to == {"envoy": [""], "portal": ["127.0.0.1"]}


def test_the_openai_sdk_chats(deployed: Deployed, client: httpx.Client) -> None:
    sdk = openai.OpenAI(base_url=f"{deployed.url}/v1", api_key=deployed.key)
    said = [{"role": "user", "content": "Hello there"}]
    answer = sdk.chat.completions.create(model=MODEL, messages=said)  # type: ignore[arg-type]
    assert answer.choices[0].message.content
    stream = sdk.chat.completions.create(model=MODEL, messages=said, stream=True)  # type: ignore[arg-type]
    assert len([chunk.choices[0].delta.content for chunk in stream if chunk.choices]) > 2


def test_curl_streams(deployed: Deployed, client: httpx.Client) -> None:
    command = ["curl", "-sSN", f"{deployed.url}{CHAT}", "-H", f"Authorization: Bearer {deployed.key}"]
    command += ["-H", "Content-Type: application/json", "-d", json.dumps(body(5, stream=True))]
    out = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    assert out.strip().endswith("data: [DONE]")


def test_operators_see_metrics_and_health(deployed: Deployed, client: httpx.Client) -> None:
    metrics = httpx.get(f"{deployed.operator_url}/metrics").text
    assert "api_requests_total{" in metrics
    assert re.search(r'^api_backends\{.*state="healthy".*\} 1', metrics, re.MULTILINE)
    assert httpx.get(f"{deployed.url}/health").json()["vllm_status"] == "connected"


def test_prometheus_scrapes_the_gateway_and_has_its_rules(deployed: Deployed) -> None:
    """Grafana is left out: it is only parsed (compose.yaml says so)."""
    deployed.project.run("--profile", "observability", "up", "-d", "prometheus")
    deadline = time.monotonic() + 60
    while True:
        try:
            targets = httpx.get(f"{deployed.prometheus_url}/api/v1/targets").json()["data"]["activeTargets"]
            if [target["health"] for target in targets] == ["up"]:
                break
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline
        time.sleep(1)
    rules = httpx.get(f"{deployed.prometheus_url}/api/v1/rules").json()["data"]["groups"]
    assert len(rules) > 3


ALLOWED = {
    "render": {"200"},
    "authz": {"200", "503 auth_unavailable"},
    "ratelimit": {"200"},
    "accesslog": {"200"},
    "portal": {"200"},
    "redis": {"200"},
    "demo": {"200", "503 backend_unavailable", CUT},
    "envoy": {"200", CUT},
}
"""What callers may see while one container is restarted."""


@pytest.mark.parametrize("service", list(ALLOWED))
def test_a_restart_under_load_shows_only_what_it_must(deployed: Deployed, client: httpx.Client, service: str) -> None:
    with load(client) as outcome:
        deployed.project.run("restart", service)
    deployed.answers(client)
    assert set(outcome.seen) <= ALLOWED[service], outcome.seen
    assert outcome.seen["200"] > 20


@pytest.mark.parametrize("service", ["authz", "ratelimit", "accesslog", "portal", "redis"])
def test_a_running_stream_outlives_the_restart_of_a_sidecar(
    deployed: Deployed, client: httpx.Client, service: str
) -> None:
    with long_stream(client) as stream:
        deployed.project.run("restart", service)
        assert stream.is_alive(), "the stream should outlast the restart"


def test_what_a_killed_receiver_loses_is_restored_from_envoys_log(deployed: Deployed, client: httpx.Client) -> None:
    with load(client) as outcome:
        deployed.project.run("kill", "--signal", "SIGKILL", "accesslog")
        time.sleep(3)
        deployed.project.run("up", "-d", "--no-deps", "accesslog")
    time.sleep(32)  # what ended within 30 s may only be late, and is left alone
    deployed.project.run("exec", "-T", "accesslog", "gatehouse", "usage", "reconcile")
    log = deployed.project.run("exec", "-T", "accesslog", "sh", "-c", "cat /var/log/gatehouse/requests_*.log")
    recorded = [json.loads(line)["request_id"] for line in log.splitlines()]
    assert len(outcome.answered) > 20
    assert [one for one in outcome.answered if recorded.count(one) != 1] == []


def changed(file: Path, document: dict[str, Any]) -> None:
    """As an editor does it: the file is replaced."""
    new = file.with_suffix(".new")
    new.write_text(yaml.safe_dump(document))
    new.rename(file)
    time.sleep(4)


def test_a_change_of_the_file_is_taken_up_by_all_and_a_bad_one_by_nobody(
    deployed: Deployed, client: httpx.Client
) -> None:
    good = yaml.safe_load(deployed.config_file.read_text())
    said = body(3, stream=False)
    try:
        changed(deployed.config_file, {**good, "users": {"alice": {"disabled": True}}})
        assert client.post(CHAT, json=said).status_code == 401
        changed(deployed.config_file, {**good, "vllm": {"base_url": "http://nobody.invalid:1/v1"}})
        assert client.post(CHAT, json=said).status_code == 503
        changed(deployed.config_file, {**good, "rate_limits": {"free": {"requests": 1}}})
        assert client.post(CHAT, json=said).status_code == 503
    finally:
        changed(deployed.config_file, good)
    deployed.answers(client)


def test_operators_read_usage_in_a_container(deployed: Deployed, client: httpx.Client) -> None:
    deployed.answers(client)
    report = json.loads(deployed.project.run("exec", "-T", "accesslog", "gatehouse", "usage", "--by=user", "--json"))
    assert "alice" in json.dumps(report)
