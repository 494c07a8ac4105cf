"""Runs the gateway's request reader on one body, without a running gateway.

The only reader (`gatehouse.envoy.request_reader`) is an Envoy filter. So this starts an Envoy with that filter, the
configuration's settings and no backend: nothing is forwarded. It listens on a unix socket in a private directory and
ends after one body.
"""

import contextlib
import http.client
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gatehouse.config.model import Config
from gatehouse.contract import names
from gatehouse.contract.failures import GatehouseError
from gatehouse.envoy import request_reader
from gatehouse.envoy.message import Message, extension
from gatehouse.gateway.envoy_binary import environment, envoy_path, write

_START_S = 10.0
_MARGIN_BYTES = 1024 * 1024
_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


class NotReadError(GatehouseError):
    """Envoy did not start or did not answer; the message says which."""


def read(body: bytes, path: str, config: Config) -> dict[str, Any]:
    """The reader's output (metadata `llm`): `model, asks, stream, …`, or why the request is `refused`.

    Raises `NotReadError`, or `FileNotFoundError` if Envoy is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="gatehouse-") as directory, _envoy(Path(directory), config) as listening:
        client = _Client(listening)
        with contextlib.closing(client):
            client.request("POST", path, body, {"content-type": "application/json"})
            answer = client.getresponse()
            said = answer.read()
    if answer.status != http.HTTPStatus.OK:
        raise NotReadError(f"Envoy answers {answer.status}: {said.decode(errors='replace')}")
    found: dict[str, Any] = json.loads(said)["read"] or {}
    return found


class _Client(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@contextlib.contextmanager
def _envoy(directory: Path, config: Config) -> Iterator[Path]:
    listening = directory / "reader.sock"
    file = directory / "envoy.yaml"
    write(_bootstrap(listening, config), file)
    command = [envoy_path(), "-c", str(file), "--disable-hot-restart", "--concurrency", "1", "--log-level", "error"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    try:
        _await(listening, process)
        yield listening
    finally:
        process.kill()
        process.wait()


def _await(listening: Path, process: "subprocess.Popen[bytes]") -> None:
    """Return once it accepts connections."""
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), contextlib.closing(_Client(listening)) as client:
            client.connect()
            return
        time.sleep(0.02)
    raise NotReadError(f"Envoy did not start: it exited with status {process.returncode}")


def _bootstrap(listening: Path, config: Config) -> Message:
    room = config.server.max_body_bytes + _MARGIN_BYTES
    router = extension("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router")
    manager = extension(
        "envoy.filters.network.http_connection_manager",
        _MANAGER,
        stat_prefix="reader",
        http_filters=[*request_reader.filters(config.server.max_body_bytes), router],
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [_told(config)]}]},
    )
    listener = {
        "address": {"pipe": {"path": str(listening), "mode": 0o600}},
        "per_connection_buffer_limit_bytes": room,
        "filter_chains": [{"filters": [manager]}],
    }
    return {"static_resources": {"listeners": [listener]}}


def _told(config: Config) -> Message:
    said = {"json_format": {"read": f"%DYNAMIC_METADATA({names.LLM})%"}}
    return {
        "match": {"prefix": "/"},
        "metadata": request_reader.settings(config),
        "direct_response": {"status": 200, "body": {"inline_string": "-"}, "body_format": said},
    }
