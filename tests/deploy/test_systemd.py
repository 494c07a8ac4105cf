"""The unit of deploy/systemd: verified, hardened, and started by a real systemd, from install.sh to uninstall.sh."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import pytest
from testcontainers.core.container import DockerContainer

from gatehouse.loading.load import load
from testkit.running_gateway import ROOT
from tests.deploy.engine import docker, no_engine, skip_if
from tests.deploy.load import CHAT, body, long_stream

DIRECTORY = ROOT / "deploy" / "systemd"
UNIT = DIRECTORY / "gatehouse.service"
WORST_EXPOSURE = 3.0
BINARY, CONFIG = "/opt/gatehouse/bin/gatehouse", "/etc/gatehouse/gatehouse.yaml"

needs_systemd_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (Debian: apt-get install systemd)"
)


def analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)


@needs_systemd_analyze
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    here = tmp_path / UNIT.name
    here.write_text(UNIT.read_text().replace(BINARY, sys.executable))  # it wants to see the program, too
    done = analyze("verify", str(here))
    assert [line for line in done.stderr.splitlines() if UNIT.name in line] == []


@needs_systemd_analyze
def test_the_unit_is_hardened() -> None:
    found = re.search(
        r"exposure level for gatehouse.service: ([\d.]+)", analyze("security", "--offline=true", str(UNIT)).stdout
    )
    assert found
    assert float(found[1]) <= WORST_EXPOSURE


@pytest.mark.parametrize("script", ["install.sh", "uninstall.sh"])
def test_the_scripts_can_be_read_by_any_shell(script: str) -> None:
    assert (DIRECTORY / script).stat().st_mode & 0o111
    assert subprocess.run(["sh", "-n", str(DIRECTORY / script)], check=False, timeout=10).returncode == 0


def test_the_configuration_is_one_that_runs() -> None:
    config = load(DIRECTORY / "gatehouse.yaml", {})
    assert config.logging.dir == "/var/log/gatehouse"  # LogsDirectory=
    assert config.key_store.path == "/var/lib/gatehouse/keys.jsonl"  # StateDirectory=


@dataclass
class Machine:
    """A container in which systemd runs."""

    id: str
    url: str

    def sh(self, script: str) -> str:
        return docker("exec", self.id, "sh", "-ec", script)

    def shown(self, prop: str) -> str:
        return self.sh(f"systemctl show gatehouse -p {prop} --value").strip()

    def until(self, prop: str, value: str, within_s: float = 60) -> None:
        deadline = time.monotonic() + within_s
        while self.shown(prop) != value:
            assert time.monotonic() < deadline, self.sh("systemctl status gatehouse --no-pager || true")
            time.sleep(0.2)

    def client(self, key: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=30)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """Booted, installed and started, with a model server beside it and a pepper among the secrets."""
    skip_if(no_engine())
    here = Path(__file__).parent
    docker("build", "-f", str(here / "systemd.Dockerfile"), "-t", "gatehouse-systemd:test", str(here))
    rights = {"cap_add": ["SYS_ADMIN"], "security_opt": ["seccomp=unconfined", "apparmor=unconfined"]}
    container = (
        DockerContainer("gatehouse-systemd:test").with_exposed_ports(8000).with_volume_mapping(str(ROOT), "/src")
    )
    for place, options in {"/run": "", "/run/lock": "", "/tmp": "exec"}.items():
        container = container.with_tmpfs_mount(place, options)
    with container.with_kwargs(**rights):
        machine = Machine(container.get_wrapped_container().id, f"http://127.0.0.1:{container.get_exposed_port(8000)}")
        machine.sh("until systemctl is-system-running --wait; do sleep 0.2; done")
        machine.sh("/src/deploy/systemd/install.sh")
        machine.sh("printf %s a-pepper-of-32-bytes-0123456789ab >/etc/gatehouse/secrets/pepper")
        secret = "file:/run/credentials/gatehouse.service/secret_pepper"
        machine.sh(f"""echo 'keys: {{peppers: {{"2026": "{secret}"}}}}' >>{CONFIG}""")
        machine.sh("systemd-run -q --unit=model /opt/gatehouse/bin/python -m demo_model_server --port 8100")
        machine.sh("systemctl enable --now gatehouse")
        yield machine


@pytest.fixture(scope="module")
def key(machine: Machine) -> str:
    made = machine.sh(f"gatehouse keys create -c {CONFIG} --user alice --tier premium --json")
    time.sleep(2)
    key: str = json.loads(made)["key"]
    return key


deployed = [pytest.mark.slow, pytest.mark.deploy]


class TestOnARealSystemd:
    pytestmark = deployed

    def test_it_is_started_once_it_answers(self, machine: Machine, key: str) -> None:
        """`systemctl start` comes back when requests are answered; keys are digests made with a systemd credential."""
        assert machine.shown("ActiveState") == "active"
        with machine.client(key) as client:
            answer = client.post(CHAT, json=body(3, stream=False))
        assert answer.status_code == 200, answer.text
        assert "hmac" in machine.sh("cat /var/lib/gatehouse/keys.jsonl").lower()

    def test_it_is_nobodys_user_and_can_write_to_three_places_alone(self, machine: Machine) -> None:
        main = machine.shown("MainPID")
        status = machine.sh(f"cat /proc/{main}/status")
        assert not re.search(r"^Uid:\s+0", status, re.MULTILINE)
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
        mounts = machine.sh(f"cat /proc/{main}/mounts").splitlines()
        writable = {line.split()[1] for line in mounts if "rw" in line.split()[3].split(",")}
        places = {one for one in writable if one.startswith(("/etc", "/opt", "/usr", "/var", "/run/gatehouse"))}
        assert places <= {
            f"/{where}/gatehouse" for where in ("run", "var/lib", "var/log", "var/lib/private", "var/log/private")
        } | {"/var/lib/private/gatehouse", "/var/log/private/gatehouse", "/var/tmp"}
        assert next(line for line in mounts if line.split()[1] == "/").split()[3].startswith("ro")

    def test_it_comes_back_after_its_supervisor_was_killed(self, machine: Machine, key: str) -> None:
        before = machine.shown("MainPID")
        machine.sh(f"kill -9 {before}")
        time.sleep(1)
        machine.until("ActiveState", "active")
        assert machine.shown("MainPID") != before
        assert len(machine.sh("pgrep -xc envoy").split()) == 1
        with machine.client(key) as client:
            assert client.post(CHAT, json=body(3, stream=False)).status_code == 200

    def test_one_that_hangs_is_replaced(self, machine: Machine) -> None:
        machine.sh("mkdir -p /run/systemd/system/gatehouse.service.d")
        machine.sh("printf '[Service]\\nWatchdogSec=3\\n' >/run/systemd/system/gatehouse.service.d/test.conf")
        machine.sh("systemctl daemon-reload && systemctl restart gatehouse")
        before = machine.shown("MainPID")
        time.sleep(5)
        assert machine.shown("MainPID") == before  # it says in time that it lives
        machine.sh(f"kill -STOP {before}")
        time.sleep(5)
        machine.until("ActiveState", "active")
        assert machine.shown("MainPID") != before
        machine.sh(
            "rm -r /run/systemd/system/gatehouse.service.d && systemctl daemon-reload && systemctl restart gatehouse"
        )

    def test_a_running_stream_ends_before_the_gateway_stops(self, machine: Machine, key: str) -> None:
        with machine.client(key) as client, long_stream(client, 400):
            machine.sh("systemctl restart gatehouse")

    def test_a_bad_configuration_is_told_of_and_not_tried_again(self, machine: Machine) -> None:
        machine.sh(f"cp -p {CONFIG} /tmp/good && echo 'sever: {{}}' >>{CONFIG}")
        machine.sh("! systemctl restart gatehouse 2>/dev/null")
        assert machine.shown("ExecMainStatus") == "2"
        assert machine.shown("ActiveState") == "failed"
        assert "sever" in machine.sh("journalctl -u gatehouse --no-pager -n 20")
        machine.sh(f"cp -p /tmp/good {CONFIG} && systemctl restart gatehouse")

    def test_installing_again_leaves_everything_running_and_in_place(self, machine: Machine, key: str) -> None:
        before = machine.sh(f"sha256sum {CONFIG} /etc/gatehouse/secrets/* /var/lib/gatehouse/keys.jsonl")
        pid = machine.shown("MainPID")
        machine.sh("/src/deploy/systemd/install.sh")
        assert machine.sh(f"sha256sum {CONFIG} /etc/gatehouse/secrets/* /var/lib/gatehouse/keys.jsonl") == before
        assert machine.shown("MainPID") == pid
        with machine.client(key) as client:
            assert client.post(CHAT, json=body(3, stream=False)).status_code == 200

    def test_uninstalling_leaves_what_is_yours_and_purging_nothing(self, machine: Machine) -> None:
        machine.sh("cp /opt/gatehouse/uninstall.sh /tmp && /tmp/uninstall.sh")
        assert machine.sh("pgrep -c envoy || true").strip() == "0"
        left = "find /etc /opt /usr /var /run -name '*gatehouse*'"
        yours = set(machine.sh(left).split())
        assert {"/etc/gatehouse", "/var/lib/private/gatehouse", "/var/log/private/gatehouse"} <= yours
        assert not any(one.startswith(("/opt", "/usr", "/etc/systemd")) for one in yours)
        machine.sh("/tmp/uninstall.sh && /tmp/uninstall.sh --purge")
        assert machine.sh(left).split() == []
