"""What a kubelet does with a pod's containers, without containers: their own commands as processes, in order."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from gatehouse.proxy.binary import envoy_path
from tests.deploy.kubernetes import Manifest
from tests.running_gateway import ROOT

PATIENCE_S = 60
_BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Kubelet:
    """`mounts`: path in the containers -> folder here. `ports`: name of a port -> its number here."""

    mounts: Mapping[str, Path]
    ports: Mapping[str, int]
    logs: Path

    @contextmanager
    def running(self, pod: Manifest) -> Iterator[None]:
        """The pod, ready. It ends as a deleted one does: hooks, containers, then sidecars in the opposite order."""
        spec = pod["spec"]
        with ExitStack() as stack:
            for container in spec["initContainers"]:
                if container.get("restartPolicy") == "Always":
                    stack.enter_context(self._kept(container))
                    self.until(container, "startupProbe")
                else:
                    self.run(container["name"], container["command"])
            for container in spec["containers"]:
                stack.enter_context(self._kept(container))
            for container in [*spec["initContainers"], *spec["containers"]]:
                self.until(container, "readinessProbe")
            yield
            for container in spec["containers"]:
                if hook := container.get("lifecycle", {}).get("preStop"):
                    self.run("preStop", hook["exec"]["command"])

    def run(self, name: str, command: list[str]) -> None:
        """Run a command to its end; it must succeed."""
        done = subprocess.run(self._local(command), cwd=ROOT, env=self._environment(), capture_output=True, check=False)
        assert done.returncode == 0, f"{name}: {(done.stdout + done.stderr).decode()}"

    def until(self, container: Manifest, kind: str) -> None:
        """Wait until the probe succeeds; one that there is not does."""
        deadline = time.monotonic() + PATIENCE_S
        while kind in container and not self.succeeds(container[kind]):
            log = self.logs / f"{container['name']}.log"
            assert time.monotonic() < deadline, f"{container['name']} {kind}: {log.read_text()[-2000:]}"
            time.sleep(0.2)

    def succeeds(self, probe: Manifest) -> bool:
        """The verdict of one probe."""
        if "exec" in probe:
            command = self._local(probe["exec"]["command"])
            return not subprocess.run(
                command, cwd=ROOT, env=self._environment(), capture_output=True, check=False
            ).returncode
        if "tcpSocket" in probe:
            with socket.socket() as connection:
                return not connection.connect_ex(("127.0.0.1", self.ports[probe["tcpSocket"]["port"]]))
        url = f"http://127.0.0.1:{self.ports[probe['httpGet']['port']]}{probe['httpGet']['path']}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status < 400)
        except OSError:
            return False

    @contextmanager
    def _kept(self, container: Manifest) -> Iterator[None]:
        with (self.logs / f"{container['name']}.log").open("wb") as log:
            process = subprocess.Popen(
                self._local(container["command"]), cwd=ROOT, env=self._environment(), stdout=log, stderr=log
            )
        try:
            yield
            assert process.poll() is None, f"{container['name']} ended before it was told to"
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _local(self, command: list[str]) -> list[str]:
        """The command with the paths of this machine."""
        words = list(command)
        if "gatehouse.probe" in words:
            words += ["--run-dir", "/run/gatehouse"]
        for inside, here in self.mounts.items():
            words = [word.replace(inside, str(here)) for word in words]
        if words[0] == "envoy":
            words[0] = envoy_path()
        return words

    def _environment(self) -> dict[str, str]:
        return {"PATH": f"{_BIN}:{os.environ['PATH']}", "HOME": str(self.logs)}
