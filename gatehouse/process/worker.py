"""The command line that all services share: `python -m authz_service -c gatehouse.yaml --workers 2`.

Without `--index` the process supervises `--workers` workers, each a process with its own unix socket in the run
directory, and restarts those that die. With `--index` it is one of them.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from gatehouse import metrics
from gatehouse.config import Config, ConfigError
from gatehouse.config.run_dir import DEFAULT_RUN_DIR, RunDir, Service, workers
from gatehouse.files import permissions
from gatehouse.loading.files import Files
from gatehouse.loading.follower import follow
from gatehouse.loading.key_table import KeyRetention
from gatehouse.metrics import Reloads
from gatehouse.process import app_log, signals, starvation
from gatehouse.process.prefork import copying
from gatehouse.process.supervise import Process, Program, Start, executed, supervise

GRACE_S = 10.0
"""How long a worker may take after SIGTERM to finish its calls."""

_LOADED: dict[Service, tuple[str, ...]] = {
    "authz": ("authz_service.__main__",),
    "ratelimit": ("ratelimit_service.__main__", "ratelimit_service.shared_store"),
    "accesslog": ("accesslog_service.__main__",),
    "portal": ("portal_service.wiring",),
}
_LOADED_BY_ALL = ("watchfiles", "anyio._backends._asyncio")  # watchfiles imports this backend lazily


@dataclass(frozen=True, slots=True)
class Worker:
    """What one worker is wired from: its name (`authz-0`), configuration files, run directory, index and stop event."""

    name: str
    files: Files
    run_dir: RunDir
    index: int
    stop: asyncio.Event
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set to read the files again, changed or not."""

    @property
    def config(self) -> Config:
        """As it is."""
        return self.files.config

    @asynccontextmanager
    async def following(self, adopt: Callable[[Config], None]) -> AsyncIterator[None]:
        """Follow the files while the block runs; calls `adopt` with the configuration whenever it or keys change."""
        logging = self.config.logging

        def taken_up() -> None:
            nonlocal logging
            if logging != self.config.logging:
                logging = self.config.logging
                app_log.configure(logging, self.name)
            adopt(self.config)

        task = asyncio.create_task(follow(self.files, taken_up, Reloads(), self.asked))
        try:
            yield
        finally:
            task.cancel()


Main = Callable[[Worker], Awaitable[None]]


def run(service: Service, main: Main, arguments: Sequence[str] | None = None) -> int:
    """Run `service` by its command line; returns the exit status (2: the configuration can't be used)."""
    options = _parser(service).parse_args(arguments)
    signals.bide()
    if options.index is not None:
        return _run_worker(service, main, options)
    with copying(loaded_by([service])) as start:
        return _run_supervisor(service, options, start)


def loaded_by(services: Sequence[Service]) -> list[str]:
    """The modules that workers of `services` import."""
    return [*_LOADED_BY_ALL, *(module for service in services for module in _LOADED[service])]


def _run_worker(service: Service, main: Main, options: argparse.Namespace) -> int:
    files = _files(service, options)
    try:
        files.load()
    except ConfigError as error:
        return _unusable(error)
    permissions.keep_from_others()
    name = f"{service}-{options.index}"
    run_dir = RunDir(options.run_dir)
    app_log.configure(files.config.logging, name)
    metrics.share(run_dir.metrics, name)
    metrics.started(name)
    uvloop.run(_work(main, Worker(name, files, run_dir, options.index, asyncio.Event())))
    return 0


def _run_supervisor(service: Service, options: argparse.Namespace, start: Start) -> int:
    try:
        config = _files(service, options).load()  # and drop the rest: a supervisor does not need 100,000 keys
    except ConfigError as error:
        return _unusable(error)
    count = options.workers or workers(config, service)
    programs = [worker_program(service, i, options.config, options.run_dir, start) for i in range(count)]
    app_log.configure(config.logging, service)
    asyncio.run(_supervise(programs))
    return 0


def _files(service: Service, options: argparse.Namespace) -> Files:
    """Only authz_service needs keys, and only it must be able to read the key files."""
    accepted = options.config == RunDir(options.run_dir).accepted  # published by replacing it
    return Files(
        options.config, KeyRetention.RECORDS if service == "authz" else KeyRetention.NOTHING, replaced=accepted
    )


def _unusable(error: ConfigError) -> int:
    print(error, file=sys.stderr)
    return 2


def worker_program(service: Service, index: int, config: Path, run_dir: Path, start: Start = executed) -> Program:
    """How worker `index` of `service` is started. `start` is for those that work at once: a copy would keep pages in
    memory that a standby has no use for."""
    module = (sys.executable, "-m", f"{service}_service")
    command = (*module, "-c", str(config), "--run-dir", str(run_dir), "--index", str(index))
    stands_by = service == "portal" and index > 0
    return Program(f"{service}-{index}", command, start=executed if stands_by else start)


def _parser(service: Service) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {service}_service")
    parser.add_argument("-c", "--config", type=Path, default=Path("gatehouse.yaml"), help="gatehouse.yaml")
    parser.add_argument("--run-dir", type=Path, default=DEFAULT_RUN_DIR, help="where the sockets are")
    parser.add_argument("--workers", type=int, help="processes, each with a socket of its own (default: as configured)")
    parser.add_argument("--index", type=int, help="be this one worker, without a supervisor")
    return parser


async def _supervise(programs: Sequence[Program]) -> None:
    stop, running = asyncio.Event(), dict[str, Process]()

    def reread() -> None:
        for process in running.values():
            if process.returncode is None:
                os.kill(process.pid, signal.SIGHUP)

    signals.handle(stop.set, reread, _nothing)
    await supervise(programs, stop, running)


async def _work(main: Main, worker: Worker) -> None:
    signals.handle(worker.stop.set, worker.asked.set, _nothing)
    watching = asyncio.create_task(starvation.watch(starvation.counted(worker.name)))
    try:
        await main(worker)
    finally:
        watching.cancel()


def _nothing() -> None:
    """Logs that have moved are opened again by themselves (`gatehouse.files.daily_file`)."""
