"""A pod in containers of a Docker engine: one network, shared folders, and the security context of each container."""

import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.deploy.kubernetes import Manifest, containers


def docker(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done


@dataclass
class Containers:
    """`volumes`: name of a volume -> folder here. `image` is ours. All pods of a test may share `network`."""

    spec: Manifest
    image: str
    volumes: Mapping[str, Path]
    network: str
    host: str
    name: str = field(default_factory=lambda: f"pod-{uuid.uuid4().hex[:8]}")

    def port(self, name: str) -> int:
        ports = [port for container in containers({"spec": self.spec}) for port in container.get("ports", [])]
        return next(int(port["containerPort"]) for port in ports if port["name"] == name)

    def run_to_the_end(self, container: Manifest) -> None:
        self._run(container, "--rm")

    def start(self, container: Manifest) -> None:
        self._run(container, "--detach")

    def stop(self, container: Manifest) -> None:
        state = docker("inspect", "-f", "{{.State.Running}}", self._named(container)).stdout.strip()
        docker("stop", "--time", "60", self._named(container))
        said = self.logs(container)
        docker("rm", "--force", self._named(container))
        assert state == "true", f"{container['name']} ended before it was told to: {said[-2000:]}"

    def succeeds(self, container: Manifest, command: list[str]) -> bool:
        return docker("exec", self._named(container), *command, check=False).returncode == 0

    def logs(self, container: Manifest) -> str:
        done = docker("logs", self._named(container), check=False)
        return done.stdout + done.stderr

    def _named(self, container: Manifest) -> str:
        return f"{self.name}-{container['name']}"

    def _run(self, container: Manifest, how: str) -> None:
        pod, own = self.spec["securityContext"], container["securityContext"]
        options = [how, "--name", self._named(container), "--network", f"container:{self.network}"]
        options += ["--user", f"{pod['runAsUser']}:{pod['runAsGroup']}"]
        options += ["--read-only"] if own["readOnlyRootFilesystem"] else []
        options += [f"--cap-drop={capability}" for capability in own["capabilities"]["drop"]]
        options += [] if own["allowPrivilegeEscalation"] else ["--security-opt=no-new-privileges"]
        options += [f"--env={variable['name']}={variable['value']}" for variable in container.get("env", [])]
        for mount in container["volumeMounts"]:
            access = ":ro" if mount.get("readOnly") else ""
            options.append(f"--volume={self.volumes[mount['name']]}:{mount['mountPath']}{access}")
        image = self.image if container["image"].startswith("gatehouse:") else container["image"]
        first, *others = container["command"]
        docker("run", *options, "--entrypoint", first, image, *others)
