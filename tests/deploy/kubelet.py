"""What a kubelet does with the containers of a pod, in its order; how they run is the business of a `Runtime`."""

import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol

from tests.deploy.kubernetes import Manifest

PATIENCE_S = 60


class Runtime(Protocol):
    """Runs containers of one pod. `start` and `run_to_the_end` raise when one fails."""

    host: str

    def port(self, name: str) -> int:
        """Where the port of that name is on `host`."""

    def run_to_the_end(self, container: Manifest) -> None: ...

    def start(self, container: Manifest) -> None: ...

    def stop(self, container: Manifest) -> None:
        """SIGTERM, and wait. Raises when it had ended before."""

    def succeeds(self, container: Manifest, command: list[str]) -> bool:
        """Run a command in a container that runs, and say whether its status is 0."""

    def logs(self, container: Manifest) -> str: ...


@contextmanager
def running(runtime: Runtime, pod: Manifest) -> Iterator[None]:
    """The pod, ready. It ends as a deleted one does: hooks, containers, then sidecars in the opposite order."""
    spec = pod["spec"]
    with ExitStack() as stack:
        for container in spec.get("initContainers", []):
            if container.get("restartPolicy") == "Always":
                _started(stack, runtime, container)
                until(runtime, container, "startupProbe")
            else:
                runtime.run_to_the_end(container)
        for container in spec["containers"]:
            _started(stack, runtime, container)
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            until(runtime, container, "readinessProbe")
        yield
        for container in spec["containers"]:
            if hook := container.get("lifecycle", {}).get("preStop"):
                assert runtime.succeeds(container, hook["exec"]["command"]), runtime.logs(container)


def _started(stack: ExitStack, runtime: Runtime, container: Manifest) -> None:
    runtime.start(container)
    stack.callback(runtime.stop, container)


def until(runtime: Runtime, container: Manifest, kind: str) -> None:
    """Wait until the probe succeeds; one that there is not does."""
    deadline = time.monotonic() + PATIENCE_S
    while kind in container and not probed(runtime, container, kind):
        assert time.monotonic() < deadline, f"{container['name']} {kind}: {runtime.logs(container)[-2000:]}"
        time.sleep(0.2)


def probed(runtime: Runtime, container: Manifest, kind: str) -> bool:
    """The verdict of one probe."""
    probe = container[kind]
    kinds: dict[str, Callable[[Manifest], bool]] = {
        "exec": lambda p: runtime.succeeds(container, p["command"]),
        "tcpSocket": lambda p: _connects(runtime.host, runtime.port(p["port"])),
        "httpGet": lambda p: _answers(f"http://{runtime.host}:{runtime.port(p['port'])}{p['path']}"),
    }
    return next(ask(probe[name]) for name, ask in kinds.items() if name in probe)


def _connects(host: str, port: int) -> bool:
    with socket.socket() as connection:
        connection.settimeout(2)
        return not connection.connect_ex((host, port))


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status < 400)
    except OSError:
        return False
