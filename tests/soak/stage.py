"""What a soak runs: a gateway as a user starts it, a Redis and a model server; each can be killed and comes back."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2 as httpx
import redis
import yaml

from testkit.ports import free_port
from testkit.redis_server import redis_binary
from testkit.running_gateway import ROOT, RunningGateway, first_line, running_gateway
from testkit.waiting import until
from tests.soak import callers

DISK_MIB = 3072


class Program:
    """A process that is started by the same command again after it was killed."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self._command, self._folder = command, folder
        self.start()

    def start(self) -> None:
        with (self._folder / "console.log").open("ab") as out:
            self._process = subprocess.Popen(self._command, stdout=out, stderr=out, cwd=ROOT, start_new_session=True)

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Stage:
    """The gateway is another one after `replace_gateway`. `logs` is on a disk of its own where this may mount one.

    `read` has all read that is written to the logs.
    """

    def __init__(self, folder: Path, disk: Path, gateway: RunningGateway, server: Program, model: Program) -> None:
        self.folder, self.disk, self.gateway, self.redis, self.model = folder, disk, gateway, server, model
        self.logs = disk / "logs"
        self.arrivals = folder / "arrivals.log"
        self.key_file = folder / "keys.yaml"
        self.config_file = folder / "gatehouse.yaml"
        self.read: Callable[[], None] = lambda: None
        self._edits = 0

    def pids(self, service: str) -> list[int]:
        """Those of the workers of `service`, by their index."""
        children = self.gateway.children()
        return [children[name] for name in sorted(children) if name.startswith(f"{service}-")]

    def pid(self, name: str) -> int:
        return self.gateway.children()[name]

    def processes(self) -> dict[str, int]:
        """Name -> pid of all that is sampled."""
        own = {"gatehouse": self.gateway.process.pid, "redis": self.redis.pid, "model server": self.model.pid}
        return {**self.gateway.children(), **own, "soak": os.getpid()}

    def edit(self, **fields: Any) -> None:
        """Write the configuration anew, with a change that changes nothing for anybody, and `fields`."""
        self._edits += 1
        document = yaml.safe_load(self.config_file.read_text())
        document["users"] = {f"edit-{self._edits}": {}}
        self.write({**document, **fields})

    def write(self, document: Any) -> None:
        """At once, as editors do."""
        aside = self.config_file.with_suffix(".new")
        aside.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
        aside.replace(self.config_file)

    def write_keys(self, *, revoked: bool) -> None:
        about = {"user_id": callers.REVOCABLE, "tier": "open"}
        _write_keys(self.key_file, {} if revoked else {callers.key(callers.REVOCABLE): about})

    def replace_gateway(self) -> None:
        """`gatehouse up --replace`, with a changed configuration: Envoy's hot restart. The old one is gone then."""
        self.edit()
        old, command = self.gateway.process, [sys.executable, "-m", "gatehouse.cli", "up", "--json", "--replace"]
        with (self.folder / "stderr.log").open("ab") as stderr:
            process = subprocess.Popen(
                [*command, "-c", str(self.config_file)],
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=ROOT,
                start_new_session=True,
            )
        facts = first_line(process, self.folder)
        self.gateway = RunningGateway(process, facts["url"], facts["metrics_url"], self.disk)
        old.wait(60)

    def reconcile(self) -> None:
        """`gatehouse usage reconcile`, as an operator has it run."""
        command = [sys.executable, "-m", "gatehouse.cli", "usage", "reconcile", "-c", str(self.config_file), "--json"]
        done = subprocess.run(["nice", *command], capture_output=True, text=True, timeout=300, cwd=ROOT, check=False)
        if done.returncode:
            raise RuntimeError(f"gatehouse usage reconcile: {done.stdout}{done.stderr}")

    def consoles(self) -> str:
        return (self.folder / "stderr.log").read_text(errors="replace")


def _write_keys(file: Path, keys: dict[str, Any]) -> None:
    aside = file.with_suffix(".new")
    aside.write_text(yaml.safe_dump(keys))
    aside.replace(file)


@contextmanager
def staged() -> Iterator[Stage]:
    """All of it runs within the block, in a directory that is gone afterwards."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="gh-soak-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        disk = stack.enter_context(_disk(folder / "disk"))
        port, model_port = free_port(), free_port()
        (folder / "redis").mkdir()
        server = Program(_redis(folder / "redis", port), folder)
        stack.callback(server.kill)
        model = Program(_model_server(folder, model_port), folder)
        stack.callback(model.kill)
        torrent_port = free_port()
        stack.callback(Program(_model_server(folder, torrent_port), folder).kill)
        until(redis.Redis(port=port).ping, 20, "Redis")
        for each in (model_port, torrent_port):
            until(lambda each=each: _well(each), 20, "a model server")  # type: ignore[misc]
        keys = folder / "keys.yaml"
        _write_keys(keys, {callers.key(callers.REVOCABLE): {"user_id": callers.REVOCABLE, "tier": "open"}})
        models = f"http://127.0.0.1:{model_port}", f"http://127.0.0.1:{torrent_port}"
        config = callers.settings(*models, f"redis://127.0.0.1:{port}/0", str(keys))
        config["logging"] = {"dir": str(disk / "logs")}
        with _bound_by_permissions(folder):
            gateway = stack.enter_context(running_gateway(folder, config))
        stage = Stage(folder, disk, gateway, server, model)
        stack.callback(lambda: _ended(stage.gateway.process))
        yield stage


def _ended(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
        process.terminate()
        process.wait(30)
    if process.poll() is None:
        process.kill()
        process.wait()


def _model_server(folder: Path, port: int) -> list[str]:
    """Who reads nothing has one to itself: to send 200 MiB takes it seconds, and what others wait for is no gateway."""
    arrivals = str(folder / "arrivals.log")
    return [sys.executable, "-m", "tests.soak.model", "--port", str(port), "--arrivals", arrivals]


def _well(port: int) -> bool:
    return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200


def _redis(folder: Path, port: int) -> list[str]:
    """As docs/limits.md has it: what was counted is on disk within a second."""
    where = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--loglevel", "warning"]
    return [redis_binary(), *where, "--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]


@contextmanager
def _disk(place: Path) -> Iterator[Path]:
    """A file system of its own, which can be full; a plain directory for those who may not mount one."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield place
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextmanager
def _bound_by_permissions(folder: Path) -> Iterator[None]:
    """Root may read and enter everything (capabilities(7)); a gateway that is started in the block may not."""
    if os.geteuid() or not shutil.which("setpriv"):
        yield
        return
    real, python = sys.executable, folder / "python"
    python.write_text(f'#!/bin/sh\nexec setpriv --bounding-set=-dac_override,-dac_read_search {real} "$@"\n')
    python.chmod(0o755)
    sys.executable = str(python)
    try:
        yield
    finally:
        sys.executable = real


def kill(pids: list[int], number: int = signal.SIGKILL) -> None:
    """Who is gone by itself needs none."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
