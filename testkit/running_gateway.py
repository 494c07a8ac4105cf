"""A real gateway for tests: `gatehouse up` as a user starts it, on free ports, in a directory of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gatehouse.config.run_dir import RunDir
from testkit.lines import complete_lines
from testkit.ports import free_port
from testkit.waiting import until

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 60


@dataclass
class RunningGateway:
    """A running gateway, its logs and its metrics."""

    process: "subprocess.Popen[bytes]"
    url: str
    metrics_url: str
    directory: Path

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, **options)

    def records(self, at_least: int = 0, timeout_s: float = 10) -> list[dict[str, Any]]:
        """The request log, once it holds `at_least` records."""

        def found() -> list[dict[str, Any]]:
            return [json.loads(line) for path in self.logs("requests_*.log") for line in complete_lines(path)]

        until(lambda: len(found()) >= at_least, timeout_s, f"{at_least} records")
        return found()

    def record(self, request_id: str, timeout_s: float = 10) -> dict[str, Any]:
        """The one record of a request, once it is written."""

        def found() -> list[dict[str, Any]]:
            return [record for record in self.records() if record["request_id"] == request_id]

        (record,) = until(found, timeout_s, f"the record of {request_id}")
        return record

    def logs(self, pattern: str = "*") -> list[Path]:
        return sorted((self.directory / "logs").glob(pattern))

    def metrics(self) -> str:
        return httpx.get(self.metrics_url, timeout=10).text

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        samples = [sample for family in text_string_to_metric_families(self.metrics()) for sample in family.samples]
        return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())

    def children(self) -> dict[str, int]:
        """Name -> pid of every process the gateway runs: `authz-0`, `envoy`, …"""
        found = {}
        for entry in Path("/proc").iterdir():
            ours = entry.name.isdigit() and _parent(entry) == self.process.pid
            if ours and (command := _command(entry)):  # an ended process has none
                found[_name(command)] = int(entry.name)
        return found

    def run_dir(self) -> RunDir:
        """The run directory of this gateway's processes."""
        command = _command(Path(f"/proc/{self.children()['authz-0']}"))
        return RunDir(Path(command[command.index("--run-dir") + 1]))

    def stop(self, timeout_s: float = 30) -> int:
        """SIGTERM, and the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


def _parent(entry: Path) -> int | None:
    try:
        return int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except (OSError, IndexError):
        return None


def _command(entry: Path) -> list[str]:
    """As `ps` shows it: workers that are copies have a title for a command line."""
    return (entry / "cmdline").read_text().replace("\0", " ").split()


def _name(command: list[str]) -> str:
    if command == ["gatehouse:", "prefork"]:
        return "prefork"
    if "--index" in command:
        return f"{command[2].removesuffix('_service')}-{command[command.index('--index') + 1]}"
    return "demo" if "demo_model_server" in command else "envoy"


@contextmanager
def running_gateway(
    directory: Path,
    config: Mapping[str, Any],
    *arguments: str,
    environment: Mapping[str, str] | None = None,
) -> Iterator[RunningGateway]:
    """Start a gateway with `config` (ports and log directory are filled in); it is stopped in the end."""
    server = {
        "host": "127.0.0.1",
        "port": free_port(),
        "metrics_port": free_port(),
        "workers": 2,
        "drain_s": 5,
        "drain_notice_s": 0,
    }
    document = {**config, "server": {**server, **config.get("server", {})}}
    document["logging"] = {"dir": str(directory / "logs"), **config.get("logging", {})}
    file = directory / "gatehouse.yaml"
    file.write_text(yaml.safe_dump(document))
    command = [sys.executable, "-m", "gatehouse.cli", "up", "-c", str(file), "--json", *arguments]
    clean = {
        k: v for k, v in os.environ.items() if k not in ("VLLM_BASE_URL", "REDIS_URL", "OTEL_EXPORTER_OTLP_ENDPOINT")
    }
    with (directory / "stderr.log").open("wb") as stderr:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=ROOT,
            env={**clean, **(environment or {})},
            start_new_session=True,
        )
    try:
        facts = first_line(process, directory)
        yield RunningGateway(process, facts["url"], facts["metrics_url"], directory)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def first_line(process: "subprocess.Popen[bytes]", directory: Path) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise AssertionError(f"the gateway did not start:\n{(directory / 'stderr.log').read_text()}")
    facts: dict[str, Any] = json.loads(line)
    assert "url" in facts, facts
    return facts
