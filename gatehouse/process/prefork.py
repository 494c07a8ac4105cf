"""Forks workers from one process that has imported their modules, so that they share most of their memory.

That process, the prefork server, is itself forked from the supervisor before it has threads. It forks each worker
twice, so that the worker is an orphan at once and the supervisor, as a subreaper, its parent. Killing the prefork
server kills no worker and costs memory only: later workers are executed instead. A worker is what `python -m` would
run, down to its `__main__` module, its arguments, environment and title.

The prefork server ends when no worker was forked for a while: by then most shared pages have been copied, so it would
only hold memory of its own. Workers that are restarted later are executed.
"""

import asyncio
import errno
import gc
import importlib
import json
import logging
import os
import runpy
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

from setproctitle import setproctitle

from gatehouse.process import prctl
from gatehouse.process.child import Child
from gatehouse.process.supervise import Process, Start, executed

log = logging.getLogger(__name__)

TITLE = "gatehouse: prefork"
PATIENCE_S = 30.0
"""How long a fork may take; the first one waits until all modules are imported."""
LINGERS_S = 30.0
"""How long the prefork server waits for another request to fork."""
_LONGEST = 1024 * 1024
_ADOPTED_POLL_S = 0.0005


@contextmanager
def copying(modules: Sequence[str]) -> Iterator[Start]:
    """A function that starts `python -m MODULE …` while the block runs, forked from a process with `modules` imported.

    Enter it while this process has one thread. Workers are executed instead on systems without subreapers and pidfds.
    """
    if not _can_adopt():
        yield executed
        return
    prefork = _PreforkServer(modules)
    try:
        yield prefork.start
    finally:
        prefork.end()


def _can_adopt() -> bool:
    """On Linux since 5.3, where nobody forbids it."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


class _PreforkServer:
    """The supervisor's side."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._one_by_one = asyncio.Lock()
        self._ended = False
        self._lingers: asyncio.TimerHandle | None = None
        self._socket, requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        prctl.adopt_orphans()
        supervisor = os.getpid()
        _keep_shared()
        self._pid = os.fork()
        if self._pid == 0:
            self._socket.close()
            _serve(requests, modules, supervisor)
        requests.close()
        self._socket.setblocking(False)

    async def start(self, command: Sequence[str]) -> Process:
        """A copy that runs `command`: `(sys.executable, "-m", MODULE, …)`."""
        async with self._one_by_one:
            if not self._ended:
                self._stay()
                try:
                    async with asyncio.timeout(PATIENCE_S):
                        pid = await self._copy(command)
                except (OSError, EOFError, TimeoutError) as error:
                    reason = str(error) or type(error).__name__
                    log.warning("workers share no memory from now on, their prefork server is gone: %s", reason)
                    self.end()
                except BaseException:
                    self.end()  # or its answer would be taken for the next one's
                    raise
                else:
                    self._lingers = asyncio.get_running_loop().call_later(LINGERS_S, self.end)
                    return _watched(pid)
        return await executed(command)

    def _stay(self) -> None:
        if self._lingers:
            self._lingers.cancel()

    async def _copy(self, command: Sequence[str]) -> int:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._socket, json.dumps([list(command), dict(os.environ)]).encode())
        answer = await loop.sock_recv(self._socket, _LONGEST)
        if not answer:
            raise EOFError("it ended")
        return int(answer)  # a process, or the errno that kept it from being made

    def end(self) -> None:
        """Its copies run on. One that is just being made finds nobody to report to, and ends."""
        if not self._ended:
            self._ended = True
            self._socket.close()
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            prctl.adopt_orphans(False)


def _watched(copy: int) -> Child:
    """Raises `OSError` when there is no such copy, or it can't be watched; none runs then."""
    if copy < 0:
        raise OSError(-copy, os.strerror(-copy))
    try:
        return Child(copy)
    except OSError:
        os.kill(copy, signal.SIGKILL)
        os.waitpid(copy, 0)
        raise


def _keep_shared() -> None:
    """What is loaded now stays: the collector need not write to it, in any copy."""
    gc.collect()
    gc.freeze()


def _serve(requests: socket.socket, modules: Sequence[str], supervisor: int) -> NoReturn:
    """The prefork server, until the supervisor has ended."""
    try:
        os.setpgid(0, 0)  # Ctrl-C is for the supervisor
        _close_all_but(requests.fileno())
        setproctitle(TITLE)
        for module in modules:
            with suppress(ImportError):  # whoever can't do without it will say so
                importlib.import_module(module)
            if module.endswith(".__main__"):
                sys.modules.pop(module, None)  # each copy runs it as its own
        _keep_shared()
        while request := requests.recv(_LONGEST):
            _copy_for(requests, request, supervisor)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _close_all_but(kept: int) -> None:
    """What the supervisor was given beside the standard streams is not for workers. An exec would close it, too."""
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))


def _copy_for(requests: socket.socket, request: bytes, supervisor: int) -> None:
    """Make a copy, which answers for itself; or answer what keeps it from being made."""
    try:
        between = os.fork()
    except OSError as error:
        requests.send(_refusal(error))
        return
    if between == 0:
        _fork_again(requests, request, supervisor)
    os.waitpid(between, 0)


def _refusal(error: OSError) -> bytes:
    return str(-(error.errno or errno.EAGAIN)).encode()


def _fork_again(requests: socket.socket, request: bytes, supervisor: int) -> NoReturn:
    try:
        between = os.getpid()
        if os.fork() == 0:
            _become(requests, request, between, supervisor)
    except OSError as error:
        requests.send(_refusal(error))
    finally:
        os._exit(0)


def _become(requests: socket.socket, request: bytes, between: int, supervisor: int) -> NoReturn:
    """The worker: adopted first, then reported by itself."""
    status = 1
    try:
        os.setpgid(0, 0)
        while os.getppid() == between:
            time.sleep(_ADOPTED_POLL_S)
        prctl.die_with_parent()
        if os.getppid() == supervisor:
            requests.send(str(os.getpid()).encode())
            requests.close()
            status = _run(*json.loads(request))
    finally:
        os._exit(status)


def _run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """`python -m MODULE …` from here on; its exit status."""
    os.environ.clear()
    os.environ.update(environment)
    setproctitle(" ".join(command))
    module = command[2]
    sys.argv = [module, *command[3:]]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        logging.shutdown()
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
    return 0
