"""The whole gateway on one machine: Envoy and the services, started, kept running and stopped in order."""

import asyncio
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp

from gatehouse import app_log, metrics
from gatehouse.config.model import Config
from gatehouse.envoy.access_log import FILE_NAME
from gatehouse.following import Target, started
from gatehouse.proxy.admin import Admin, drain
from gatehouse.proxy.binary import envoy_path
from gatehouse.run_dir import SERVICES, RunDir, Service, workers
from gatehouse.supervise import Program, keep_running, supervise
from gatehouse.worker import worker_program

START_TIMEOUT_S = 60.0


class PortInUseError(Exception):
    """Another program listens where the gateway should."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """What is to run: a checked configuration, the file it came from, its text, and extra programs beside it."""

    config: Config
    config_file: Path
    text: bytes
    beside: tuple[Program, ...] = ()

    @property
    def url(self) -> str:
        return local_url(self.config)

    @property
    def access_log(self) -> Path:
        """Envoy's own log of requests, the durable copy."""
        return Path(self.config.logging.dir).absolute() / FILE_NAME


def local_url(config: Config) -> str:
    """Where a gateway with `config` answers, as seen from its own machine."""
    host = config.server.host
    shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{config.server.port}"


class Signals:
    """SIGINT and SIGTERM: the first asks to stop, the second to stop at once."""

    def __init__(self) -> None:
        self.stop, self.hurry = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._received)

    def _received(self) -> None:
        (self.hurry if self.stop.is_set() else self.stop).set()


def check_ports(config: Config) -> None:
    """Raises `PortInUseError` for the first port that is taken."""
    wanted = [(config.server.host, config.server.port, "port")]
    if config.server.metrics_port:
        wanted.append((config.server.metrics_host, config.server.metrics_port, "metrics_port"))
    for host, port, field in wanted:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                message = f"can't listen on {host}:{port}: {error.strerror}"
                raise PortInUseError(f"{message}; set server.{field} or GATEHOUSE_SERVER__{field.upper()}") from None


@contextmanager
def run_directory() -> Iterator[RunDir]:
    """A private directory for sockets and rendered files, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="gatehouse-", ignore_cleanup_errors=True) as path:
        run_dir = RunDir(Path(path))
        run_dir.envoy.mkdir()
        yield run_dir


async def run(gateway: Gateway, run_dir: RunDir, signals: Signals, ready: asyncio.Event) -> None:
    """Run until `signals` ask to stop, then drain; `ready` is set once requests are answered.

    Meanwhile the configuration may change (`gatehouse.following`).

    Raises `EnvoyRejectsError` before anything starts, and `TimeoutError` when the gateway does not come up.
    """
    gateway.access_log.parent.mkdir(parents=True, exist_ok=True)
    metrics.share(run_dir.metrics, "gateway")
    following = started(
        Target(gateway.config_file, run_dir, str(gateway.access_log), run_dir.envoy, run_dir.accepted),
        gateway.config,
        gateway.text,
        partial(_logs_as, Admin(run_dir.admin_socket)),
    )
    services_stop, recorders_stop, envoy_stop = asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        deciders = [*_programs(gateway, run_dir, "authz"), *_programs(gateway, run_dir, "ratelimit")]
        tasks.create_task(supervise([*deciders, *gateway.beside], services_stop))
        recorders = tasks.create_task(supervise(_programs(gateway, run_dir, "accesslog"), recorders_stop))
        try:
            await _sockets_exist(gateway.config, run_dir, signals)
            envoy = tasks.create_task(keep_running(_envoy(gateway, run_dir), envoy_stop))
            await _answers(gateway, signals)
            ready.set()
            changing = tasks.create_task(following.run())
            await signals.stop.wait()
            changing.cancel()
            await drain(Admin(run_dir.admin_socket), following.config.server.drain_s, signals.hurry)
            envoy_stop.set()
            await envoy
            recorders_stop.set()  # the last records settle with ratelimit_service, so that one goes last
            await recorders
        finally:
            for stop in (envoy_stop, recorders_stop, services_stop):
                stop.set()


def _programs(gateway: Gateway, run_dir: RunDir, service: Service) -> list[Program]:
    count = workers(gateway.config, service)
    return [worker_program(service, index, run_dir.accepted, run_dir.path) for index in range(count)]


def _envoy(gateway: Gateway, run_dir: RunDir) -> Program:
    logging = gateway.config.logging
    threads = min(gateway.config.server.workers, os.cpu_count() or 1)
    command = [envoy_path(), "-c", str(run_dir.envoy / "envoy.yaml"), "--disable-hot-restart"]
    command += ["--concurrency", str(threads), "--drain-strategy", "immediate"]
    command += ["--log-path", str(Path(logging.dir) / "envoy.log"), "--log-level", _envoy_level(logging.level)]
    command += ["--component-log-level", "misc:error", "--file-flush-interval-msec", "1000"]
    return Program("envoy", tuple(command))


def _envoy_level(level: str) -> str:
    """Envoy's `info` tells of every connection to a sidecar: one step quieter than ours."""
    return {"debug": "info", "info": "warning", "warning": "warning", "error": "error"}[level]


async def _logs_as(admin: Admin, old: Config, new: Config) -> None:
    """Follow a change of `logging`: this process, and Envoy."""
    app_log.configure(new.logging, "gatehouse")
    if old.logging.level != new.logging.level:
        await admin.log_at(_envoy_level(new.logging.level), {"misc": "error"})


async def _sockets_exist(config: Config, run_dir: RunDir, signals: Signals) -> None:
    paths = [run_dir.socket(service, i) for service in SERVICES for i in range(workers(config, service))]
    async with asyncio.timeout(START_TIMEOUT_S):
        while not signals.stop.is_set() and not all(path.exists() for path in paths):
            await asyncio.sleep(0.02)  # a socket file announces itself to nobody


async def _answers(gateway: Gateway, signals: Signals) -> None:
    """Wait until `/health` is answered, be the model server healthy or not."""
    async with asyncio.timeout(START_TIMEOUT_S), aiohttp.ClientSession() as session:
        while not signals.stop.is_set():
            try:
                async with session.get(f"{gateway.url}/health", timeout=aiohttp.ClientTimeout(total=2)) as answer:
                    if "status" in await answer.json():
                        return
            except (aiohttp.ClientError, TimeoutError, ValueError):
                pass
            await asyncio.sleep(0.05)
