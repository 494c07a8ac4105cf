"""accesslog_service as it runs: two receivers under a supervisor, fed over gRPC and by a real Envoy."""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gatehouse.config.run_dir import RunDir
from gatehouse.gateway.envoy_binary import envoy_path
from gatehouse.metrics import exposition
from gatehouse.pb.accesslog_pb2 import AccessLogType, HTTPAccessLogEntry
from gatehouse.pb.als_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse
from portal_service import envoy_stats
from testkit.ports import free_port
from testkit.waiting import until

ROOT = Path(__file__).parents[2]
STREAM_ACCESS_LOGS = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
CANARY = "sk-canary-7f3a"
FLUSH_S = 0.2


@dataclass(frozen=True)
class Service:
    """A running accesslog_service. It is ready when both receivers serve."""

    process: subprocess.Popen[bytes]
    directory: Path

    @property
    def run_dir(self) -> RunDir:
        return RunDir(self.directory)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(15)

    def lines(self) -> list[bytes]:
        return [line for file in self.directory.glob("logs/requests_*") for line in file.read_bytes().splitlines(True)]

    def request_ids(self) -> list[str]:
        return [json.loads(line)["request_id"] for line in self.lines()]

    def recorded(self, endpoint: str) -> int:
        return sum(json.loads(line)["endpoint"] == endpoint for line in self.lines())

    def scrape(self) -> str:
        """As portal_service tells them."""
        return exposition(self.run_dir.metrics).decode()

    def sample(self, name: str, **labels: str) -> float:
        """The sum of the samples called `name` that have `labels`."""
        families = text_string_to_metric_families(self.scrape())
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    def receiver_pid(self, index: int) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in map(int, children):
            if f"--index {index}" in Path(f"/proc/{pid}/cmdline").read_text():
                return pid
        raise LookupError(f"receiver {index} does not run")

    def wait_until_serving(self, index: int, timeout_s: float = 15) -> None:
        soon = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.min_reconnect_backoff_ms", 50)]
        with grpc.insecure_channel(f"unix:{self.run_dir.socket('accesslog', index)}", soon) as channel:
            grpc.channel_ready_future(channel).result(timeout_s)

    def send(self, index: int, messages: Iterator[StreamAccessLogsMessage]) -> None:
        """Stream `messages` to receiver `index`; returns when the stream has ended, by either side."""
        with grpc.insecure_channel(f"unix:{self.run_dir.socket('accesslog', index)}") as channel:
            call = channel.stream_unary(
                STREAM_ACCESS_LOGS,
                request_serializer=StreamAccessLogsMessage.SerializeToString,
                response_deserializer=StreamAccessLogsResponse.FromString,
            )
            call(messages, timeout=30)


@contextmanager
def service() -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="gh") as name:
        directory = Path(name)
        config = {
            "logging": {"dir": str(directory / "logs")},
            "models": {"a:b": {"backends": [{"url": "http://127.0.0.1:9/v1"}]}},
        }
        (directory / "gatehouse.yaml").write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "accesslog_service", "-c", str(directory / "gatehouse.yaml")]
        process = subprocess.Popen([*command, "--run-dir", name], cwd=ROOT)
        running = Service(process, directory)
        try:
            for index in (0, 1):
                running.wait_until_serving(index)
            yield running
        finally:
            running.stop()


@pytest.fixture(scope="module")
def shared() -> Iterator[Service]:
    with service() as running:
        yield running


def entry(request_id: str, **values: Any) -> HTTPAccessLogEntry:
    made = HTTPAccessLogEntry()
    made.common_properties.access_log_type = AccessLogType.DownstreamEnd
    made.common_properties.metadata.filter_metadata["llm"].update({"model": "a:b", "stream": True, **values})
    made.request.request_id = request_id
    made.request.path = "/v1/chat/completions"
    made.response.response_code.value = 200
    return made


def messages(request_ids: list[str], batch: int = 20) -> Iterator[StreamAccessLogsMessage]:
    for start in range(0, len(request_ids), batch):
        message = StreamAccessLogsMessage()
        message.identifier.log_name = "gatehouse"
        message.http_logs.log_entry.extend(map(entry, request_ids[start : start + batch]))
        yield message


def test_two_receivers_write_whole_lines_to_one_file(shared: Service) -> None:
    sent = [[f"whole-{index}-{number}" for number in range(2000)] for index in (0, 1)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(shared.send, (0, 1), map(messages, sent)))
    expected = sorted(sent[0] + sent[1])
    until(lambda: sorted(i for i in shared.request_ids() if i.startswith("whole-")) == expected)
    assert len(list(shared.directory.glob("logs/requests_*"))) == 1
    assert all(line.endswith(b"\n") for line in shared.lines())


def test_streams_that_still_run_are_no_records(shared: Service) -> None:
    [message] = messages(["running", "ended"])
    message.http_logs.log_entry[0].common_properties.access_log_type = AccessLogType.DownstreamPeriodic
    message.http_logs.log_entry[0].common_properties.intermediate_log_entry = True
    shared.send(0, iter([message]))
    until(lambda: "ended" in shared.request_ids())
    assert "running" not in shared.request_ids()


def unidentified() -> StreamAccessLogsMessage:
    [message] = messages(["foreign"])
    message.ClearField("identifier")
    return message


def of_tcp() -> StreamAccessLogsMessage:
    [message] = messages(["foreign"])
    message.tcp_logs.SetInParent()
    return message


def without_entries() -> StreamAccessLogsMessage:
    [message] = messages(["foreign"])
    message.ClearField("http_logs")
    return message


def oversized() -> StreamAccessLogsMessage:
    [message] = messages(["foreign"])
    message.identifier.log_name = "x" * (5 * 1024 * 1024)
    return message


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (unidentified, grpc.StatusCode.INVALID_ARGUMENT),
        (of_tcp, grpc.StatusCode.INVALID_ARGUMENT),
        (without_entries, grpc.StatusCode.INVALID_ARGUMENT),
        (oversized, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_f45_what_is_no_access_log_is_refused(
    shared: Service, make: Callable[[], StreamAccessLogsMessage], code: grpc.StatusCode
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        shared.send(1, iter([make()]))
    assert refused.value.code() == code
    assert "foreign" not in shared.request_ids()


def test_f07_messages_that_cannot_be_read_are_counted_as_lost(shared: Service) -> None:
    before = shared.sample("api_access_log_lost_by_place_total", where="message")
    with grpc.insecure_channel(f"unix:{shared.run_dir.socket('accesslog', 0)}") as channel:
        call = channel.stream_unary(STREAM_ACCESS_LOGS)
        with pytest.raises(grpc.RpcError):
            call(iter([b"\x0a\xff not a message"]), timeout=10)
    until(lambda: shared.sample("api_access_log_lost_by_place_total", where="message") == before + 1)


def test_secrets_in_an_entry_reach_no_file_and_no_metric(shared: Service) -> None:
    [message] = messages(["canary"])
    [leaky] = message.http_logs.log_entry
    leaky.request.path = f"/v1/chat/completions?key={CANARY}"
    leaky.request.referer = leaky.request.authority = leaky.request.original_path = CANARY
    for header in ("authorization", "x-api-key", "cookie"):
        leaky.request.request_headers[header] = leaky.response.response_headers[header] = CANARY
    leaky.common_properties.metadata.filter_metadata["llm"].update({"prompt": CANARY})
    shared.send(0, iter([message]))
    until(lambda: "canary" in shared.request_ids())
    assert CANARY not in shared.scrape()
    files = [path for path in shared.directory.rglob("*") if path.is_file()]
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []


def test_f08_sigterm_loses_nothing_of_streams_that_never_end() -> None:
    sent: list[str] = []

    def flushes(index: int, ended: threading.Event) -> Iterator[StreamAccessLogsMessage]:
        """As Envoy: batches at intervals, until the receiver ends the stream."""
        number = 0
        while not ended.is_set():
            batch = [f"{index}-{number}-{position}" for position in range(30)]
            sent.extend(batch)
            yield from messages(batch, batch=10)
            number += 1
            ended.wait(FLUSH_S)

    def stream(index: int) -> None:
        ended = threading.Event()
        running.send(index, flushes(index, ended))
        ended.set()

    with service() as running, ThreadPoolExecutor() as pool:
        streams = [pool.submit(stream, index) for index in (0, 1)]
        until(lambda: len(running.request_ids()) > 0)
        assert running.stop() == 0
        for finished in streams:
            finished.result()
        assert sorted(running.request_ids()) == sorted(sent)
        assert not list(running.directory.glob("*.sock"))


def test_f07_a_killed_receiver_comes_back_and_goes_on_counting(shared: Service) -> None:
    def counted() -> float:
        return shared.sample("api_requests_total", model="a:b", status="200")

    def written() -> int:
        return sum(request_id.startswith("f07-") for request_id in shared.request_ids())

    def sends(index: int, name: str) -> None:
        shared.send(index, messages([f"f07-{name}-{number}" for number in range(20)]))

    before = counted()
    sends(0, "before")
    until(lambda: counted() == before + 20)
    until(lambda: written() == 20)
    killed = shared.receiver_pid(0)
    os.kill(killed, signal.SIGKILL)
    sends(1, "meanwhile")
    until(lambda: shared.receiver_pid(0) != killed)
    shared.wait_until_serving(0)
    sends(0, "after")
    until(lambda: counted() == before + 60)
    until(lambda: written() == 60)


@contextmanager
def envoy(running: Service) -> Iterator[int]:
    """A real Envoy that answers `hi` and logs to both receivers; yields its port."""
    port = free_port()
    file = running.directory / "envoy.yaml"
    file.write_text(yaml.safe_dump(envoy_config(running.run_dir, port)))
    command = [envoy_path(), "-c", str(file), "-l", "error", "--concurrency", "1", "--use-dynamic-base-id"]
    process = subprocess.Popen(command)
    try:
        until(lambda: accepts(port), 15)
        yield port
    finally:
        process.terminate()
        process.wait(15)


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def envoy_config(run_dir: RunDir, port: int) -> dict[str, Any]:
    api = "type.googleapis.com/envoy.extensions"
    log = {
        "@type": f"{api}.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
        "common_config": {
            "log_name": "gatehouse",
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": "accesslog"}},
            "buffer_flush_interval": f"{FLUSH_S}s",
        },
    }
    route = {"name": "not_found", "match": {"prefix": "/"}, "direct_response": {"status": 404}}
    http = {
        "@type": f"{api}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gatehouse",
        "access_log": [{"name": "grpc", "typed_config": log}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{api}.filters.http.router.v3.Router"}}],
    }
    http2 = {
        "@type": f"{api}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    sockets = [run_dir.socket("accesslog", index) for index in (0, 1)]
    receivers = cluster("accesslog", *({"pipe": {"path": str(path)}} for path in sockets))
    receivers["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2}
    check = {"timeout": "1s", "interval": "0.5s", "no_traffic_interval": "0.5s", "grpc_health_check": {}}
    receivers["health_checks"] = [{**check, "unhealthy_threshold": 2, "healthy_threshold": 1}]
    return {
        "admin": {"address": {"pipe": {"path": str(run_dir.admin_socket)}}},
        "static_resources": {
            "listeners": [
                {
                    "name": "main",
                    "address": tcp(port),
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": http}]}],
                }
            ],
            "clusters": [receivers, cluster("model:a:b", tcp(9))],
        },
    }


def tcp(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def cluster(name: str, *addresses: dict[str, Any]) -> dict[str, Any]:
    endpoints = [{"endpoint": {"address": address}} for address in addresses]
    return {
        "name": name,
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }


def test_what_a_real_envoy_logs_becomes_a_record(shared: Service) -> None:
    def recorded() -> list[dict[str, Any]]:
        return [record for record in map(json.loads, shared.lines()) if record["endpoint"] == "/v1/nowhere"]

    with envoy(shared) as port:
        request = b"GET /v1/nowhere?key=%b HTTP/1.1\r\nHost: x\r\nUser-Agent: ansi\x80\xff\r\nAuthorization: %b\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(request % (CANARY.encode(), CANARY.encode()))
            assert client.recv(100).startswith(b"HTTP/1.1 404")
        until(lambda: len(recorded()) == 1)
        stats = asyncio.run(envoy_stats.read(shared.run_dir.admin_socket))
        assert envoy_stats.by_model(stats, envoy_stats.IN_FLIGHT, ["a:b"]) == {"a:b": 0}
    [record] = recorded()
    assert (record["method"], record["status"], record["error_code"]) == ("GET", 404, "not_found")
    assert (record["client_ip"], record["aborted"], record["flags"]) == ("127.0.0.1", False, "")
    assert len(record["request_id"]) == 36
    assert record["duration_ms"] > 0
    assert not any(CANARY.encode() in line for line in shared.lines())


def test_f08_a_rolling_restart_loses_nothing_of_a_real_envoy(shared: Service) -> None:
    """Envoy goes on all the while, and has to be told in time where to log."""
    sent, enough = 0, threading.Event()

    def ask(port: int) -> None:
        nonlocal sent
        client = http.client.HTTPConnection("127.0.0.1", port)
        while not enough.wait(0.003):
            client.request("GET", "/v1/rolling")
            client.getresponse().read()
            sent += 1

    with envoy(shared) as port, ThreadPoolExecutor() as pool:
        asking = pool.submit(ask, port)
        try:
            until(lambda: shared.recorded("/v1/rolling") > 0)
            for index in (0, 1):
                replace(shared, index)
        finally:
            enough.set()
        asking.result()
        until(lambda: shared.recorded("/v1/rolling") == sent)


def replace(running: Service, index: int) -> None:
    """SIGTERM to one receiver; returns when the supervisor has put another in its place."""
    old = running.receiver_pid(index)
    os.kill(old, signal.SIGTERM)
    until(lambda: running.receiver_pid(index) != old, 15)
    running.wait_until_serving(index)
