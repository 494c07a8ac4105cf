"""A real Envoy with only the filters under test, between a client and a server that do what a test says."""

import http.client
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from gatehouse.contract import names
from gatehouse.envoy.endpoints import options
from gatehouse.envoy.message import Message, extension, header
from gatehouse.gateway.envoy_binary import envoy_path, write
from testkit.ports import free_port
from testkit.waiting import until

GAP_S = 0.001
"""Between two pieces of an answer: long enough that Envoy reads them apart."""
START_TIMEOUT_S = 30
_METADATA = "x-test-metadata"
_SAID = ("refused", "param", "stream", "hide", "asks")


class Backend(ThreadingHTTPServer):
    """Answers every POST with `pieces`, and keeps the body it got in `received`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.content_type = "text/event-stream; charset=utf-8"
        self.pieces: Sequence[bytes] = ()
        self.with_length = False
        self.received = b""


class _Answer(BaseHTTPRequestHandler):
    server: Backend
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        self.server.received = self._body()
        self.send_response(200)
        self.send_header("content-type", self.server.content_type)
        if self.server.with_length:
            self.send_header("content-length", str(sum(map(len, self.server.pieces))))
        else:
            self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for piece in self.server.pieces:
            self.wfile.write(piece if self.server.with_length else b"%x\r\n%b\r\n" % (len(piece), piece))
            time.sleep(GAP_S if len(self.server.pieces) > 1 else 0)
        if not self.server.with_length:
            self.wfile.write(b"0\r\n\r\n")

    def _body(self) -> bytes:
        if "content-length" in self.headers:
            return self.rfile.read(int(self.headers["content-length"]))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a test says what it expects."""


class BareEnvoy:
    """`exchange` sends one request through Envoy."""

    def __init__(self, port: int, backend: Backend) -> None:
        self.port = port
        self.backend = backend
        self.said = ""
        """What the reader said of the last request: `refused/param/stream/hide/asks`, empty where it said nothing."""

    def exchange(self, body: bytes | Iterator[bytes], path: str) -> tuple[bytes, bytes]:
        """What the backend got, and what came back. A body in pieces is sent chunked."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with closing(client):
            client.request("POST", path, body, {"content-type": "application/json"})
            response = client.getresponse()
            self.said, answer = response.headers.get(_METADATA, ""), response.read()
        return self.backend.received, answer


@contextmanager
def bare_envoy(filters: Sequence[Message], directory: Path) -> Iterator[BareEnvoy]:
    """Run Envoy with `filters` and a router before a `Backend`."""
    backend, port = Backend(), free_port()
    threading.Thread(target=backend.serve_forever, name="backend", daemon=True).start()
    file = directory / "envoy.yaml"
    write(_configuration(port, backend.server_address[1], filters), file)
    command = [envoy_path(), "-c", str(file), "--disable-hot-restart", "--concurrency", "1", "--log-level", "error"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        until(lambda: socket.create_connection(("127.0.0.1", port), 1).close() or True, START_TIMEOUT_S, "Envoy")
        yield BareEnvoy(port, backend)
    finally:
        process.terminate()
        process.wait()
        backend.shutdown()
        backend.server_close()


def _configuration(port: int, backend_port: int, filters: Sequence[Message]) -> Message:
    router = extension("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router")
    everything: Message = {"match": {"prefix": "/"}, "route": {"cluster": "backend", "timeout": "0s"}}
    everything["request_headers_to_add"] = [
        header("content-length", f"%DYNAMIC_METADATA({names.LLM}:bytes)%"),
    ]
    said = "/".join(f"%DYNAMIC_METADATA({names.LLM}:{field})%" for field in _SAID)
    everything["response_headers_to_add"] = [header(_METADATA, said)]
    manager = extension(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="test",
        http_filters=[*filters, router],
        route_config={"virtual_hosts": [_host(everything)]},
    )
    endpoint = {"endpoint": {"address": _address(backend_port)}}
    cluster = {
        "name": "backend",
        "load_assignment": {"cluster_name": "backend", "endpoints": [_group(endpoint)]},
        # What the reader refuses goes on here, with a length that may be wrong: nobody is to come after it.
        **options(
            explicit_http_config={"http_protocol_options": {}},
            common_http_protocol_options={"max_requests_per_connection": 1},
        ),
    }
    listener = {"address": _address(port), "filter_chains": [{"filters": [manager]}]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _host(route: Message) -> Message:
    return {"name": "all", "domains": ["*"], "routes": [route], "request_body_buffer_limit": 64 * 2**20}


def _group(endpoint: Message) -> Message:
    return {"lb_endpoints": [endpoint]}


def _address(port: int) -> Message:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
