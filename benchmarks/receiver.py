"""How many access-log entries one receiver takes: `python -m benchmarks.receiver [--entries 400000] [--profile FILE]`.

A receiver runs as it does in a gateway, on CPU 0: it reads messages from its unix socket as Envoy makes them,
makes records, writes and counts them. From CPU 1 they are sent as fast as it takes them. What counts is the CPU time of
the receiver: other work on the machine matters less then. Everything sent must be in the request log and in the
metrics, else the run fails.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path
from uuid import UUID

import yaml
from hpack import Encoder
from prometheus_client.parser import text_string_to_metric_families

from gatehouse.config.run_dir import RunDir
from gatehouse.contract import names
from gatehouse.envoy.access_log import BATCH_BYTES
from gatehouse.metrics import exposition
from gatehouse.pb.accesslog_pb2 import AccessLogType, HTTPAccessLogEntry
from gatehouse.pb.als_pb2 import StreamAccessLogsMessage
from gatehouse.pb.base_pb2 import RequestMethod
from gatehouse.rpc.http2 import frames

METHOD = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
MODELS, USERS, DISTINCT = 4, 50, 4096
FRAME = 16384
TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Result:
    """What one run took."""

    entries: int
    bytes_an_entry: float
    cpu_s: float
    wall_s: float

    def show(self) -> str:
        a_cpu, a_wall = self.entries / self.cpu_s, self.entries / self.wall_s
        cost = self.cpu_s / self.entries * 1e6
        return (
            f"{self.entries:,} entries of {self.bytes_an_entry:.0f} bytes: {a_cpu:,.0f} a second of CPU "
            f"({cost:.1f} us each), {a_wall:,.0f} a second"
        )


def entry(number: int) -> HTTPAccessLogEntry:
    """What Envoy sends of a streamed chat completion, field by field."""
    made = HTTPAccessLogEntry()
    common, request, response = made.common_properties, made.request, made.response
    common.access_log_type = AccessLogType.DownstreamEnd
    common.start_time.FromDatetime(datetime.now(UTC))
    for index, name in enumerate(("last_rx", "first_upstream_tx", "last_upstream_tx", "first_upstream_rx")):
        getattr(common, f"time_to_{name}_byte").FromMicroseconds(1180 + index * 900 + number % 997)
    for name in ("last_upstream_rx", "first_downstream_tx", "last_downstream_tx"):
        getattr(common, f"time_to_{name}_byte").FromMicroseconds(900_000 + number % 997)
    common.duration.FromMicroseconds(902_000 + number % 997)
    for address in ("downstream_remote", "downstream_direct_remote", "upstream_remote"):
        peer = getattr(common, f"{address}_address").socket_address
        peer.address, peer.port_value = "10.0.0.7", 8100 + number % 7
    model = f"meta-llama/Llama-{number % MODELS}-7b-chat-hf"
    common.upstream_cluster = common.route_name = names.model_cluster(model)
    metadata = common.metadata.filter_metadata
    metadata[names.LLM].update({"model": model, "stream": True, "input_tokens": 512, "output_tokens": 90 + number % 9})
    metadata[names.LLM].update({"cached_tokens": 256, "asks": "256/1/4102/0"})
    metadata[names.LLM].update({"first_event_ms": time.time() * 1000 + 200})
    metadata["envoy.filters.http.rbac"].update(
        {"enforced_engine_result": "allowed", "enforced_effective_policy_id": "allowed"}
    )
    caller = {"user": f"user-{number % USERS}", "team": "search", "tier": "premium", "key_id": f"k{number % USERS}"}
    metadata[names.AUTHZ].update({**caller, "models": ["*"], "expressions": [], "ext_authz_duration": 1})
    common.upstream_request_attempt_count = 1
    common.stream_id = request.request_id = str(UUID(int=number + (1 << 100)))
    common.downstream_wire_bytes_sent, common.downstream_wire_bytes_received = 26_605, 4436
    common.upstream_wire_bytes_sent, common.upstream_wire_bytes_received = 4638, 32_242
    made.protocol_version = HTTPAccessLogEntry.HTTP11
    request.request_method, request.scheme, request.authority = RequestMethod.POST, "http", "gateway.example.com"
    request.path, request.user_agent = "/v1/chat/completions", "OpenAI/Python 1.50.0"
    request.request_headers_bytes, request.request_body_bytes = 429, 4102
    request.request_headers["traceparent"] = f"00-{number + 1:032x}-b7ad6b7169203331-01"
    request.upstream_header_bytes_sent, request.downstream_header_bytes_received = 428, 287
    response.response_code.value, response.response_code_details = 200, "via_upstream"
    response.response_headers_bytes, response.response_body_bytes = 374, 22_153
    response.upstream_header_bytes_received, response.downstream_header_bytes_sent = 145, 421
    return made


def messages() -> list[tuple[int, bytes]]:
    """Batches as Envoy makes them, and how many entries are in each."""
    made, message, size = [], StreamAccessLogsMessage(), 0
    message.identifier.log_name = names.DOMAIN
    for number in range(DISTINCT):
        each = entry(number)
        message.http_logs.log_entry.append(each)
        size += each.ByteSize()
        if size >= BATCH_BYTES:
            made.append((len(message.http_logs.log_entry), message.SerializeToString()))
            message, size = StreamAccessLogsMessage(), 0
    return made


class Sender:
    """One log stream over HTTP/2, within the windows that the receiver opens."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._room = [frames.DEFAULT_WINDOW, frames.DEFAULT_WINDOW]  # of the connection, of the stream
        self._read = b""
        headers = [(":method", "POST"), (":scheme", "http"), (":path", METHOD), (":authority", "accesslog")]
        block = Encoder().encode([*headers, ("content-type", "application/grpc"), ("te", "trailers")])
        self._socket.sendall(frames.PREFACE + frames.settings({}))
        self._socket.sendall(frames.head(frames.HEADERS, frames.END_HEADERS, 1, len(block)) + block)

    def send(self, message: bytes) -> None:
        """Send one message, when there is room for it."""
        data = b"\0" + len(message).to_bytes(4, "big") + message
        while min(self._room) < len(data):
            self._take(self._socket.recv(65536))
        self._room = [room - len(data) for room in self._room]
        parts = [data[start : start + FRAME] for start in range(0, len(data), FRAME)]
        self._socket.sendall(b"".join(frames.head(frames.DATA, 0, 1, len(part)) + part for part in parts))

    def _take(self, data: bytes) -> None:
        if not data:
            raise RuntimeError("the receiver hung up")
        self._read += data
        while len(self._read) >= 9 and len(self._read) >= (end := 9 + int.from_bytes(self._read[:3], "big")):
            frame, self._read = self._read[:end], self._read[end:]
            kind, stream = frame[3], int.from_bytes(frame[5:9], "big")
            if kind == frames.WINDOW_UPDATE:
                self._room[min(stream, 1)] += int.from_bytes(frame[9:13], "big")
            elif kind == frames.SETTINGS and not frame[4] & frames.ACK:
                for name, value in frames.SETTING.iter_unpack(frame[9:]):
                    if name == frames.INITIAL_WINDOW_SIZE:
                        self._room[1] += value - frames.DEFAULT_WINDOW


def run(entries: int, batches: Sequence[tuple[int, bytes]], profile: str | None) -> Result:
    """Send `entries`, and wait until all are written. Raises `RuntimeError` when they are not."""
    with tempfile.TemporaryDirectory(prefix="gh-bench-") as name:
        directory = Path(name)
        process = _start(directory)
        try:
            sender = Sender(_ready(RunDir(directory).socket("accesslog", 0)))
            profiler = _profiler(process.pid, profile) if profile else None
            os.sched_setaffinity(0, {min(1, (os.cpu_count() or 1) - 1)})
            cpu, began, sent = _cpu_s(process.pid), time.monotonic(), 0
            for count, message in _until(entries, batches):
                sender.send(message)
                sent += count
            _wait_for(directory, sent)
            result = Result(
                sent,
                sum(len(m) for _, m in batches) / sum(n for n, _ in batches),
                _cpu_s(process.pid) - cpu,
                time.monotonic() - began,
            )
            if (counted := _counted(directory)) != sent:
                raise RuntimeError(f"{sent} entries were sent and {counted:.0f} counted")
            if profiler:
                profiler.wait()
            return result
        finally:
            process.terminate()
            process.wait()


def _until(entries: int, batches: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    a_round = sum(count for count, _ in batches)
    return islice(cycle(batches), len(batches) * max(1, entries // a_round))


def _start(directory: Path) -> "subprocess.Popen[bytes]":
    price = {"input": 0.2, "cached_input": 0.05, "output": 0.6}
    models = {
        f"meta-llama/Llama-{number}-7b-chat-hf": {
            "backends": [{"url": "http://127.0.0.1:9/v1"}],
            "price_per_million_tokens": price,
        }
        for number in range(MODELS)
    }
    config = {"logging": {"dir": str(directory / "logs")}, "models": models}
    (directory / "gatehouse.yaml").write_text(yaml.safe_dump({**config, "rate_limits": {"premium": {}}}))
    command = ["taskset", "-c", "0", sys.executable, "-m", "accesslog_service", "-c", str(directory / "gatehouse.yaml")]
    return subprocess.Popen([*command, "--run-dir", str(directory), "--index", "0"])


def _profiler(pid: int, file: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["py-spy", "record", "-d", "5", "-r", "500", "-f", "raw", "-o", file, "--pid", str(pid)])


def _ready(path: Path) -> Path:
    deadline = time.monotonic() + TIMEOUT_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise RuntimeError("the receiver did not start")
        time.sleep(0.05)
    return path


def _wait_for(directory: Path, lines: int) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while (found := _lines(directory)) < lines:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{found} of {lines} records were written")
        time.sleep(0.2)
    if found > lines:
        raise RuntimeError(f"{found} records of {lines} entries")


def _lines(directory: Path) -> int:
    found = 0
    for path in (directory / "logs").glob("requests_*.log"):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                found += block.count(b"\n")
    return found


def _counted(directory: Path) -> float:
    families = text_string_to_metric_families(exposition(RunDir(directory).metrics).decode())
    return sum(s.value for f in families for s in f.samples if s.name == "api_requests_total")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--entries", type=int, default=400_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--profile", help="let py-spy write five seconds of stacks to this file")
    options = parser.parse_args()
    batches = messages()
    for _ in range(options.runs):
        result = run(options.entries, batches, options.profile)
        print(json.dumps({"entries_per_cpu_s": result.entries / result.cpu_s}) if options.json else result.show())


if __name__ == "__main__":
    main()
