"""Supervises programs: starts them, restarts those that die, stops them in order.

The kernel signals children when their supervisor dies (`PR_SET_PDEATHSIG`, Linux), so even `kill -9` of the supervisor
leaves nothing running.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from gatehouse.process import prctl

log = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
STEADY_S = 10.0
"""A program that ran this long is restarted at once."""
KILL_AFTER_S = 15.0


class Process(Protocol):
    """A running program: see `asyncio.subprocess.Process`."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    async def wait(self) -> int: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


async def executed(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Process:
    """In a process group of its own: Ctrl-C on a terminal is for the supervisor, which stops things in order.

    `environment` is this process's unless said.
    """
    return await asyncio.create_subprocess_exec(
        *command, preexec_fn=prctl.die_with_parent, process_group=0, env=environment
    )


Start = Callable[[Sequence[str]], Awaitable[Process]]
"""Starts a command in a process that ends with this one."""


@dataclass(frozen=True, slots=True)
class Program:
    """A supervised command. `name` is its name in logs, `again` starts it after the first time.

    `ran` is set once it has run.
    """

    name: str
    command: tuple[str, ...]
    again: tuple[str, ...] | None = None
    start: Start = executed
    ran: bool = False


def backoff(failures: int) -> float:
    """Seconds to wait before a restart after `failures` quick deaths in a row."""
    return min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(failures - 1, 10)) if failures else 0.0


async def supervise(
    programs: Sequence[Program], stop: asyncio.Event, running: MutableMapping[str, Process] | None = None
) -> None:
    """Keep `programs` running until `stop` is set; returns when all have ended."""
    async with asyncio.TaskGroup() as tasks:
        for program in programs:
            tasks.create_task(keep_running(program, stop, running=running))


async def keep_running(
    program: Program,
    stop: asyncio.Event,
    last: asyncio.Event | None = None,
    running: MutableMapping[str, Process] | None = None,
) -> None:
    """Run `program` again and again until `stop` is set, then end it: SIGTERM, and SIGKILL if it does not listen.

    Once `last` is set, it is not started again. `running` has the process that runs, by the program's name. A machine
    that has no room for a process just now (EMFILE, EAGAIN, ENOMEM) is asked again; raises `OSError` only for a program
    that can't be run at all, at its first start.
    """
    failures = 0
    while not (stop.is_set() or (last and last.is_set())):
        started = time.monotonic()
        process = await _started(program, failures)
        if process and running is not None:
            running[program.name] = process
        if process is None:
            failures += 1
        elif await _ended_before(process, stop):
            failures = 0 if time.monotonic() - started >= STEADY_S else failures + 1
            log.warning("%s ended with status %s; starting it again", program.name, process.returncode)
            program = replace(program, command=program.again or program.command, ran=True)
        else:
            await _end(program, process)
            return
        await _sleep_unless(stop, backoff(failures))


async def _started(program: Program, failures: int) -> Process | None:
    """None: not this time."""
    try:
        process = await program.start(program.command)
    except (OSError, RuntimeError) as error:  # the latter: no thread to wait for it
        if isinstance(error, FileNotFoundError | PermissionError) and not program.ran:
            raise
        if failures <= program.ran:  # told when it begins: the first failure may be the death that went before
            log.error("%s can't be started just now, and is tried again: %s", program.name, error)
        return None
    log.info("%s started, pid %d", program.name, process.pid)
    return process


async def _ended_before(process: Process, stop: asyncio.Event) -> bool:
    exit_task, stop_task = asyncio.ensure_future(process.wait()), asyncio.ensure_future(stop.wait())
    await asyncio.wait({exit_task, stop_task}, return_when=asyncio.FIRST_COMPLETED)
    stop_task.cancel()
    return exit_task.done() and not stop.is_set()


async def _end(program: Program, process: Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), KILL_AFTER_S)
    except TimeoutError:
        log.error("%s did not end within %.0f s; killing it", program.name, KILL_AFTER_S)
        process.kill()
        await process.wait()


async def _sleep_unless(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
