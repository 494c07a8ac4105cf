"""`gatehouse doctor` beside a real gateway, a real Redis and a model server."""

import json
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from gatehouse.cli import app
from testkit.authority import Authority
from testkit.fakes.fake_vllm import FakeVllm
from testkit.identity_provider import IdentityProvider
from testkit.ports import free_port
from testkit.redis_server import redis_server
from testkit.running_gateway import RunningGateway
from tests.integration.conftest import MODEL, PREMIUM


def doctor(directory: Path, config: dict[str, Any], *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    file = directory / "doctor.yaml"
    file.write_text(yaml.safe_dump(config))
    file.chmod(0o600)
    result = CliRunner().invoke(app, ["doctor", "-c", str(file), "--json", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    said = json.loads(result.stdout)
    assert said["ok"] is (result.exit_code == 0)
    return result.exit_code, said["findings"]


def wrong(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    assert all(each["fix"] for each in found if each["level"] != "ok"), "each comes with its fix"
    return [(each["about"], each["message"]) for each in found if each["level"] in ("warning", "error")]


def well(directory: Path, backend: FakeVllm) -> dict[str, Any]:
    return {
        "server": {"host": "127.0.0.1", "port": free_port(), "metrics_port": free_port()},
        "logging": {"dir": str(directory / "logs")},
        "vllm": {"base_url": f"{backend.url}/v1", "default_model": MODEL},
        "api_keys": {PREMIUM: {"user_id": "a"}},
    }


def test_where_all_is_well_every_line_is_ok(tmp_path: Path, backend: FakeVllm) -> None:
    with redis_server("--appendonly", "yes") as server, IdentityProvider() as provider:
        config = {
            **well(tmp_path, backend),
            "redis": {"url": server.url},
            "key_store": {"type": "redis"},
            "jwt": [{"issuer": provider.issuer, "audience": "a"}],
            "tracing": {"otlp_endpoint": f"http://127.0.0.1:{backend.port}"},
        }
        status, found = doctor(tmp_path, config)
    assert (status, wrong(found)) == (0, [])
    about = {each["about"] for each in found if each["level"] == "ok"}
    assert about >= {"configuration", "envoy", "ports", "redis", "clock", "backends", "sign-on", "traces", "logs"}
    assert about >= {"key files", "open files", "memory"}


def test_whatever_is_wrong_is_told_at_once(tmp_path: Path, backend: FakeVllm) -> None:
    (tmp_path / "logs").write_text("in the way")
    (tmp_path / "keys.yaml").write_text("{}")
    (tmp_path / "keys.yaml").chmod(0o644)
    with redis_server("--maxmemory-policy", "allkeys-lru") as server, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = {
            **well(tmp_path, backend),
            "key_files": [str(tmp_path / "keys.yaml")],
            "redis": {"url": server.url},
            "jwt": [{"issuer": f"http://127.0.0.1:{free_port()}", "audience": "a"}],
            "tracing": {"otlp_endpoint": f"http://127.0.0.1:{free_port()}"},
        }
        config["server"] = {**config["server"], "port": taken.getsockname()[1]}
        config["vllm"] = {"base_url": f"{backend.url}/v1", "default_model": "no-such-model"}
        status, found = doctor(tmp_path, config)
    assert status == 1
    said = dict(wrong(found))
    assert said.keys() == {"ports", "redis", "backends", "sign-on", "traces", "logs", "key files"}
    assert "allkeys-lru" in said["redis"]
    assert f"serves {MODEL}, not no-such-model" in said["backends"]
    assert "Connection refused" in said["sign-on"]


def test_who_does_not_answer_is_an_error(tmp_path: Path, backend: FakeVllm) -> None:
    config = well(tmp_path, backend)
    config["vllm"] = {"base_url": f"http://127.0.0.1:{free_port()}/v1"}
    config["redis"] = {"url": f"redis://127.0.0.1:{free_port()}"}
    status, found = doctor(tmp_path, config)
    assert status == 1
    assert [about for about, _ in wrong(found)] == ["redis", "backends"]


def test_a_redis_that_can_not_be_found_is_an_error(tmp_path: Path, backend: FakeVllm) -> None:
    config = {**well(tmp_path, backend), "redis": {"url": f"file:{tmp_path}/no-such-url"}}
    status, found = doctor(tmp_path, config)
    assert (status, [about for about, _ in wrong(found)]) == (1, ["redis"])


def test_a_certificate_that_ends_soon_is_a_warning(tmp_path: Path, backend: FakeVllm) -> None:
    key_file, cert_file = Authority(tmp_path / "ca").issue("server", "localhost", timedelta(days=5, hours=1))
    key_file.chmod(0o600)
    config = well(tmp_path, backend)
    config["server"]["tls"] = {"cert_file": str(cert_file), "key_file": str(key_file)}
    status, found = doctor(tmp_path, config)
    assert (status, wrong(found)) == (1, [("certificates", f"{cert_file} expires in 5 days")])


def test_a_model_server_is_asked_with_its_own_key(
    tmp_path: Path, backend: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", "sk-upstream-4711")
    config = well(tmp_path, backend)
    del config["vllm"]
    model = {"backends": [{"url": f"{backend.url}/v1"}], "upstream_api_key": "env:UPSTREAM_KEY"}
    config["models"] = {MODEL: model}
    status, found = doctor(tmp_path, config)
    assert (status, wrong(found)) == (0, [])
    assert backend.requests[-1].headers["authorization"] == "Bearer sk-upstream-4711"
    assert "sk-upstream-4711" not in json.dumps(found)


def test_beside_a_running_gateway_its_ports_are_its_own(tmp_path: Path, gateway: RunningGateway) -> None:
    config = yaml.safe_load((gateway.directory / "gatehouse.yaml").read_text())
    _, found = doctor(tmp_path, config)
    ports = [each["message"] for each in found if each["about"] == "ports"]
    assert [message.endswith("a gateway answers") for message in ports] == [True, True], ports


def test_for_people_it_is_one_line_each(tmp_path: Path, backend: FakeVllm) -> None:
    file = tmp_path / "gatehouse.yaml"
    file.write_text(yaml.safe_dump(well(tmp_path, backend)))
    result = CliRunner().invoke(app, ["doctor", "-c", str(file)])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert {line.split()[0] for line in lines} == {"ok", "advice"}
    assert any(line.startswith("advice  key files") and line.endswith(f"→ chmod o= {file}") for line in lines)
    assert PREMIUM not in result.output
