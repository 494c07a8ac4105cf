"""What Envoy itself refuses, it logs so that the record says what the client was told: through a real Envoy."""

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from accesslog_service.refusal import error_code
from gatehouse.envoy import local_replies
from gatehouse.envoy.message import Message, extension
from gatehouse.gateway.envoy_binary import envoy_path, write
from testkit.ports import free_port
from testkit.waiting import until

HEAD = b"POST /%b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
WHOLE = b"Content-Length: 0\r\n\r\n"
REFUSED = {
    "a body that stops arriving": (HEAD % b"silent" + b"Content-Length: 9\r\n\r\n{", 408, "request_timeout"),
    "an answer that never begins": (HEAD % b"silent" + WHOLE, 504, "timeout"),
    "nobody who answers": (HEAD % b"down" + WHOLE, 503, "backend_unavailable"),
    "a cluster that is full": (HEAD % b"full" + WHOLE, 503, "server_is_overloaded"),
    "a cluster that is unknown": (HEAD % b"unknown" + WHOLE, 503, "backend_unavailable"),
    "a path that is unknown": (HEAD % b"nowhere" + WHOLE, 404, "not_found"),
    "an unknown transfer coding": (HEAD % b"silent" + b"Transfer-Encoding: gzip\r\n\r\n", 400, "bad_request"),
    "large headers": (HEAD % b"silent" + b"X-Large: " + b"x" * 65536 + b"\r\n" + WHOLE, 431, "headers_too_large"),
    "an old version": (b"GET / HTTP/1.0\r\nHost: x\r\n\r\n", 426, "upgrade_required"),
    "an upgrade": (
        (HEAD % b"silent").replace(b"close", b"upgrade") + b"Upgrade: websocket\r\n" + WHOLE,
        426,
        "http_required",
    ),
    "no host": (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", 400, "bad_request"),
}


@dataclass(frozen=True, slots=True)
class Envoy:
    """An Envoy that only refuses."""

    port: int
    log: Path

    def told(self, request: bytes) -> tuple[int, str]:
        """The status and the error code that a client of `request` gets."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            connection.sendall(request)
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
                if received.endswith(b"}"):
                    break
        head, _, body = received.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)["error"]["code"]

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


@pytest.fixture(scope="module")
def envoy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoy]:
    with running(tmp_path_factory.mktemp("envoy")) as running_envoy:
        yield running_envoy


@pytest.mark.parametrize("name", REFUSED)
def test_the_record_says_what_the_client_was_told(envoy: Envoy, name: str) -> None:
    request, status, code = REFUSED[name]
    before = len(envoy.lines())
    assert envoy.told(request) == (status, code)
    until(lambda: len(envoy.lines()) > before, 5, "a line of the log")
    (line,) = envoy.lines()[before:]
    flags = str(line["flags"]).split(",")
    assert (line["status"], error_code(status, str(line["details"]), "", flags)) == (status, code), line


@contextmanager
def running(directory: Path) -> Iterator[Envoy]:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        envoy = Envoy(free_port(), directory / "log")
        write(_configuration(envoy, silent.getsockname()[1]), directory / "envoy.yaml")
        command = [envoy_path(), "-c", str(directory / "envoy.yaml"), "--disable-hot-restart", "--concurrency", "1"]
        command += ["--log-level", "error", "--file-flush-interval-msec", "50"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            until(lambda: socket.create_connection(("127.0.0.1", envoy.port), 1).close() or True, 30, "Envoy")
            yield envoy
        finally:
            process.terminate()
            process.wait()


def _configuration(envoy: Envoy, silent: int) -> Message:
    line = {"status": "%RESPONSE_CODE%", "details": "%RESPONSE_CODE_DETAILS%", "flags": "%RESPONSE_FLAGS%"}
    log = extension(
        "envoy.access_loggers.file",
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        path=str(envoy.log),
        log_format={"json_format": line},
    )
    router = extension("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router")
    names = ("silent", "down", "full", "unknown")
    routes = [{"match": {"path": f"/{name}"}, "route": {"cluster": name, "timeout": "0s"}} for name in names]
    manager = extension(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="test",
        http_filters=[router],
        access_log=[log],
        local_reply_config=local_replies.config(),
        stream_idle_timeout="0.5s",
        delayed_close_timeout="1s",
        route_config={
            "validate_clusters": False,
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
        },
    )
    full = {"circuit_breakers": {"thresholds": [{"max_requests": 0, "max_pending_requests": 0, "max_connections": 0}]}}
    clusters = [_cluster("silent", silent), _cluster("down", free_port()), {**_cluster("full", silent), **full}]
    listener = {"address": _address(envoy.port), "filter_chains": [{"filters": [manager]}]}
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}


def _cluster(name: str, port: int) -> Message:
    endpoint = {"endpoint": {"address": _address(port)}}
    return {"name": name, "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}}


def _address(port: int) -> Message:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
