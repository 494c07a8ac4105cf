"""A pod without containers: their commands as processes of this machine."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gatehouse.gateway.envoy_binary import envoy_path
from testkit.running_gateway import ROOT
from tests.deploy.kubelet import PATIENCE_S
from tests.deploy.kubernetes import Manifest

_BIN = Path(sys.executable).parent


@dataclass
class Processes:
    """`mounts`: path in the containers -> folder here. `ports`: name of a port -> its number here."""

    mounts: Mapping[str, Path]
    ports: Mapping[str, int]
    folder: Path
    host: str = "127.0.0.1"
    _there: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def port(self, name: str) -> int:
        return self.ports[name]

    def run_to_the_end(self, container: Manifest) -> None:
        assert self.succeeds(container, container["command"]), self.logs(container)

    def start(self, container: Manifest) -> None:
        with self._log(container).open("ab") as log:
            self._there[container["name"]] = subprocess.Popen(
                self._local(container["command"]), cwd=ROOT, env=self._environment(), stdout=log, stderr=log
            )

    def stop(self, container: Manifest) -> None:
        process = self._there.pop(container["name"])
        early = process.poll() is not None
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert not early, f"{container['name']} ended before it was told to: {self.logs(container)[-2000:]}"

    def succeeds(self, container: Manifest, command: list[str]) -> bool:
        with self._log(container).open("ab") as log:
            done = subprocess.run(
                self._local(command), cwd=ROOT, env=self._environment(), stdout=log, stderr=log, check=False
            )
        return done.returncode == 0

    def logs(self, container: Manifest) -> str:
        return self._log(container).read_text()

    def _log(self, container: Manifest) -> Path:
        return self.folder / f"{container['name']}.log"

    def _local(self, command: list[str]) -> list[str]:
        """The command with the paths of this machine."""
        words = list(command)
        if "gatehouse.rpc.probe" in words:
            words += ["--run-dir", "/run/gatehouse"]
        for inside, here in self.mounts.items():
            words = [word.replace(inside, str(here)) for word in words]
        if words[0] == "envoy":
            words[0] = envoy_path()
        return words

    def _environment(self) -> dict[str, str]:
        return {"PATH": f"{_BIN}:{os.environ['PATH']}", "HOME": str(self.folder)}
