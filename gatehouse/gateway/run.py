"""The whole gateway on one machine: starts Envoy and the services, keeps them running, and stops them in order."""

import asyncio
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from gatehouse import metrics
from gatehouse.config.model import Config, Server, Tls
from gatehouse.config.run_dir import GRPC_SERVICES, RunDir, Service, workers
from gatehouse.contract.access_log import FILE_NAME
from gatehouse.files import permissions
from gatehouse.files.private_dir import private_directory, sweep
from gatehouse.gateway import generation
from gatehouse.gateway.addresses import handover_place, local_url, reachable
from gatehouse.gateway.drain import drain, finish
from gatehouse.gateway.envoy_admin import Admin
from gatehouse.gateway.envoy_binary import environment, envoy_path
from gatehouse.gateway.generation import Generation
from gatehouse.gateway.handover import Predecessor, Succession
from gatehouse.gateway.reload import Following, Target, started
from gatehouse.loading.load import Loaded
from gatehouse.process import app_log
from gatehouse.process.signals import handle
from gatehouse.process.supervise import Process, Program, Start, executed, keep_running, supervise
from gatehouse.process.worker import worker_program

if TYPE_CHECKING:
    from gatehouse.gateway.secrets import Secrets

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
LONG_AFTER_S = 3600
"""Safety net: an Envoy terminates its predecessor so long after the drain time. The old gateway stops it earlier."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A checked configuration, its file, and the demo model server, if the gateway runs one.

    `start` starts worker processes.
    """

    loaded: Loaded
    config_file: Path
    demo: Program | None = None
    start: Start = executed

    @property
    def config(self) -> Config:
        return self.loaded.config

    @property
    def url(self) -> str:
        return local_url(self.config)

    @property
    def access_log(self) -> Path:
        """Envoy's own request log, the durable copy."""
        return Path(self.config.logging.dir).absolute() / FILE_NAME


class Signals:
    """The first SIGINT or SIGTERM stops gracefully, the second at once; for the others see `process.signals`."""

    def __init__(self) -> None:
        self.stop, self.hurry = asyncio.Event(), asyncio.Event()
        self.reread, self.reopen = asyncio.Event(), asyncio.Event()
        handle(self._received, self.reread.set, self.reopen.set)

    def _received(self) -> None:
        (self.hurry if self.stop.is_set() else self.stop).set()


@contextmanager
def run_directory() -> Iterator[RunDir]:
    """A private directory for sockets and rendered files, removed at the end. Removes those of killed gateways too."""
    sweep(Path(tempfile.gettempdir()), lambda left: generation.forget_left(RunDir(left).base_id))
    with private_directory() as path:
        run_dir = RunDir(path)
        run_dir.envoy.mkdir()
        yield run_dir


async def run(
    gateway: Gateway, run_dir: RunDir, signals: Signals, ready: asyncio.Event, before: Predecessor | None = None
) -> None:
    """Take over from `before`, if given; run until a signal or a successor ends it, then let requests finish.

    `ready` is set once requests are answered; from then on configuration changes are applied (`reload`). Raises
    `EnvoyRejectsError` before anything starts, and `TimeoutError` if the gateway does not become ready.
    """
    admin = Admin(run_dir.admin_socket)
    secrets = _secrets(gateway.config.server.tls, run_dir)
    following = _following(gateway, run_dir, admin, secrets)
    at = handover_place(gateway.config.server)
    line = f"{at}.envoy" if at else None
    if line and before is None:
        generation.sweep(line)
    succession = Succession(partial(_prepare, admin, run_dir, line, before))
    services_stop, recorders_stop, envoy_stop = asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        services = [*_programs(gateway, run_dir, "authz"), *_programs(gateway, run_dir, "ratelimit")]
        services += _programs(gateway, run_dir, "portal")  # stops last: the tally must include the last record
        beside = [gateway.demo] if gateway.demo else []
        tasks.create_task(supervise([*services, *beside], services_stop))
        recorders = tasks.create_task(supervise(_programs(gateway, run_dir, "accesslog"), recorders_stop))
        meanwhile: list[asyncio.Task[None]] = []
        try:
            await _sockets_exist(gateway.config, run_dir, signals)
            await _demo_listens(gateway, signals)
            program = _envoy(gateway, run_dir, line, before.following if before else None)
            envoy = tasks.create_task(keep_running(program, envoy_stop, succession.taken))
            await _answers(gateway, admin, signals)
            async with succession.offered(at):
                if before:
                    await before.release()
                    meanwhile.append(tasks.create_task(before.outlive()))
                if secrets:
                    meanwhile.append(tasks.create_task(secrets.follow(following.reloads)))
                following.asked = signals.reread
                changing = tasks.create_task(following.run())
                meanwhile.append(tasks.create_task(_reopen_logs(admin, signals.reopen)))
                ready.set()
                await _either(signals.stop, succession.taken)
                changing.cancel()
                await _leave(following.config.server, run_dir, admin, signals, replaced=succession.taken.is_set())
                if before:  # our Envoy would take its parent down with it
                    await _either(before.gone, signals.hurry, limit_s=following.config.server.drain_s)
                envoy_stop.set()
                await envoy
            if not succession.taken.is_set():
                _forget(run_dir, line, before)
            recorders_stop.set()  # before ratelimit_service: the last records settle there
            await recorders
        finally:
            for stop in (envoy_stop, recorders_stop, services_stop):
                stop.set()
            for task in meanwhile:
                task.cancel()
            await admin.close()


def _secrets(tls: Tls | None, run_dir: RunDir) -> "Secrets | None":
    if tls is None:
        return None
    from gatehouse.gateway.secrets import Secrets  # brings cryptography: 8 MB

    return Secrets(tls, run_dir.envoy)


def _following(gateway: Gateway, run_dir: RunDir, admin: Admin, secrets: "Secrets | None") -> Following:
    """Write Envoy's files, validated by Envoy; the result applies later changes. Raises `EnvoyRejectsError`."""
    gateway.access_log.parent.mkdir(parents=True, exist_ok=True)
    permissions.close_logs(gateway.access_log.parent)
    metrics.share(run_dir.metrics, "gateway")
    certificate = secrets.context if secrets else None
    target = Target(gateway.config_file, run_dir, str(gateway.access_log), run_dir.envoy, run_dir.accepted, certificate)
    following = started(target, gateway.loaded, metrics.Reloads(), partial(_logs_as, admin))
    if secrets:
        secrets.hand_over()
    return following


async def _reopen_logs(admin: Admin, asked: asyncio.Event) -> None:
    """Reopen Envoy's logs on request. The services notice a rotation themselves (`gatehouse.files.daily_file`)."""
    while True:
        await asked.wait()
        asked.clear()
        try:
            await admin.reopen_logs()
        except (aiohttp.ClientError, OSError) as error:
            log.warning("Envoy did not reopen its logs: %s", error or type(error).__name__)


async def _prepare(admin: Admin, run_dir: RunDir, line: str | None, before: Predecessor | None) -> Generation | None:
    """The generation for a gateway that wants to take over. None while our own predecessor still runs: Envoy would
    terminate it."""
    if line is None or (before and not before.gone.is_set()):
        return None
    await admin.hold()
    return generation.current(run_dir.base_id, line, before.following if before else None)


async def _leave(server: Server, run_dir: RunDir, admin: Admin, signals: Signals, *, replaced: bool) -> None:
    """Let running requests finish. If another gateway has taken over, `/health` stays good: it is answered there."""
    if replaced:
        log.info("another gateway has taken over; running requests get %d s", server.drain_s)
        with suppress(OSError):  # disk full: portal_service reports the old health for a while
            run_dir.replaced.touch()
        await finish(admin, server.drain_s, signals.hurry)
    else:
        await drain(admin, run_dir, server, signals.hurry)


def _forget(run_dir: RunDir, line: str | None, before: Predecessor | None) -> None:
    try:
        if line is not None:
            generation.current(run_dir.base_id, line, before.following if before else None).forget()
    except (OSError, ValueError) as error:
        log.debug("no shared memory to remove: %s", error)


async def _either(*events: asyncio.Event, limit_s: float | None = None) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()


def _programs(gateway: Gateway, run_dir: RunDir, service: Service) -> list[Program]:
    count = workers(gateway.config, service)
    return [worker_program(service, index, run_dir.accepted, run_dir.path, gateway.start) for index in range(count)]


def _envoy(gateway: Gateway, run_dir: RunDir, line: str | None, following: Generation | None) -> Program:
    logging, server = gateway.config.logging, gateway.config.server
    threads = min(server.workers, os.cpu_count() or 1)
    command = [envoy_path(), "-c", str(run_dir.envoy / "envoy.yaml"), "--concurrency", str(threads)]
    command += ["--drain-strategy", "immediate", "--drain-time-s", str(max(server.drain_s, 1))]
    command += ["--parent-shutdown-time-s", str(server.drain_s + LONG_AFTER_S)]
    command += ["--log-path", str(Path(logging.dir) / "envoy.log"), "--log-level", _envoy_level(logging.level)]
    command += ["--component-log-level", "misc:error", "--file-flush-interval-msec", "1000"]
    first = (*command, *generation.first(run_dir.base_id, line))
    start = partial(_start_envoy, run_dir, following)
    return Program("envoy", (*command, *following.arguments) if following else first, again=first, start=start)


async def _start_envoy(run_dir: RunDir, following: Generation | None, command: Sequence[str]) -> Process:
    """Start Envoy, after removing the shared memory that a killed one left."""
    if not following or following.arguments[0] not in command:
        await asyncio.to_thread(generation.forget_left, run_dir.base_id, following)
    return await executed(command, environment())


def _envoy_level(level: str) -> str:
    """One step quieter than ours: at `info`, Envoy logs every connection to a sidecar."""
    return {"debug": "info", "info": "warning", "warning": "warning", "error": "error"}[level]


async def _logs_as(admin: Admin, old: Config, new: Config) -> None:
    """Apply a change of `logging` to this process and Envoy."""
    app_log.configure(new.logging, "gatehouse")
    if old.logging.level != new.logging.level:
        await admin.log_at(_envoy_level(new.logging.level), {"misc": "error"})


async def _sockets_exist(config: Config, run_dir: RunDir, signals: Signals) -> None:
    paths = [run_dir.socket(service, i) for service in GRPC_SERVICES for i in range(workers(config, service))]
    paths.append(run_dir.portal_socket)
    async with asyncio.timeout(START_TIMEOUT_S):
        while not signals.stop.is_set() and not all(path.exists() for path in paths):
            await asyncio.sleep(0.02)  # nothing signals that a socket file exists


async def _demo_listens(gateway: Gateway, signals: Signals) -> None:
    """Wait for the demo server: Envoy would mark it unhealthy, and clients would get errors for a while."""
    if gateway.demo is None or gateway.config.vllm is None:
        return
    async with asyncio.timeout(START_TIMEOUT_S):
        while not signals.stop.is_set() and not reachable(gateway.config.vllm.base_url):
            await asyncio.sleep(0.02)


async def _answers(gateway: Gateway, admin: Admin, signals: Signals) -> None:
    """Wait until our Envoy serves and `/health` is answered, whether or not the model server is healthy."""
    async with asyncio.timeout(START_TIMEOUT_S), aiohttp.ClientSession() as session:
        while not signals.stop.is_set():
            try:
                if await admin.serves() and await _health_is_told(session, gateway.config):
                    return
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
                pass
            await asyncio.sleep(0.05)


async def _health_is_told(session: aiohttp.ClientSession, config: Config) -> bool:
    """By plain HTTP: `/health` needs no client certificate."""
    url = local_url(config).replace("https:", "http:", 1)
    async with session.get(f"{url}/health", timeout=aiohttp.ClientTimeout(total=2)) as answer:
        return "status" in await answer.json()
