"""Active and standby: of the portal's two processes one works and the other stands by.

The active process locks a file in the run directory (the kernel releases the lock when the process ends) and
increments a counter in it while its event loop runs. If the counter stops, the process hangs or was stopped: the
standby kills it and takes over.

Nothing but small modules of the standard library is imported here: while it waits, a process is as small as an
interpreter can be.
"""

import fcntl
import mmap
import os
import signal
import struct
import time
from collections.abc import Sequence

from gatehouse.contract.names import RUN_DIR

FILE = "portal.turn"
LOOK_S = 0.1
HUNG_S = 1.5
"""A process whose event loop is blocked for this long counts as hung."""
STARTING_S = 30.0
"""Time until the first count: the process loads modules and the configuration first."""
FIRST_S = 5.0
"""The standby leaves a free lock to the other process for this long: that one is forked and shares memory with its
parent, while the standby would have to load everything anew."""

_FIELDS = struct.Struct("=QQ")
"""The active process's id and its counter: 0 until its event loop runs."""


class Turn:
    """The turn of one process. The lock is held until the process ends."""

    def __init__(self, directory: str, *, first: bool) -> None:
        """`first`: take a free lock at once."""
        os.makedirs(directory, mode=0o750, exist_ok=True)
        self._file = os.open(os.path.join(directory, FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.posix_fallocate(self._file, 0, _FIELDS.size)
        self._page = mmap.mmap(self._file, _FIELDS.size)
        self._first = first
        self._count = 0
        self.waited = False
        """Whether another process worked before."""
        self.killed: int | None = None
        """The process that hung, if one did."""

    def wait(self) -> None:
        """Block until it is this process's turn."""
        if not self._first:
            self._leave_to_first()
        looks = _Looks()
        while not self._locked():
            self.waited = True
            if looks.hung(self._seen()):
                self._kill()
            time.sleep(LOOK_S)
        self._page[:] = _FIELDS.pack(os.getpid(), 0)

    def alive(self) -> None:
        """Say that this process, whose turn it is, still works. Call it several times within `HUNG_S`."""
        self._count += 1
        self._page[:] = _FIELDS.pack(os.getpid(), self._count)

    def _leave_to_first(self) -> None:
        """Wait until another process works, or none has for too long."""
        before = self._seen()
        for _ in range(round(FIRST_S / LOOK_S)):
            if self._seen() != before:
                return
            time.sleep(LOOK_S)

    def _locked(self) -> bool:
        """Whether this process holds the lock, now or already."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _seen(self) -> tuple[int, int]:
        pid, count = _FIELDS.unpack(self._page[:])
        return pid, count

    def _kill(self) -> None:
        """The lock's holder is alive, so the pid has not been reused."""
        pid, _ = self._seen()
        try:
            if not self._locked():
                os.kill(pid, signal.SIGKILL)
                self.killed = pid
        except ProcessLookupError:
            return  # it has already ended


class _Looks:
    """Watches the active process. It counts looks instead of time: if both processes were frozen, neither is late."""

    def __init__(self) -> None:
        self._seen = (0, 0)
        self._alike = 0

    def hung(self, seen: tuple[int, int]) -> bool:
        """Whether what is `seen` has not changed for too long."""
        self._alike = self._alike + 1 if seen == self._seen else 0
        self._seen = seen
        return self._alike * LOOK_S >= (HUNG_S if seen[1] else STARTING_S)


def bide() -> None:
    """Ignore signals that would end a waiting process, which has nothing to reload yet (`process.signals`)."""
    more = (signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO, signal.SIGPWR)
    for number in (signal.SIGHUP, signal.SIGUSR1, *more):
        signal.signal(number, lambda *_: None)


def of_process(arguments: Sequence[str]) -> Turn | None:
    """The turn of a process with this command line (`gatehouse.process.worker`); None for the supervisor."""
    index = _option(arguments, "--index", "")
    return Turn(_option(arguments, "--run-dir", RUN_DIR), first=index == "0") if index else None


def _option(arguments: Sequence[str], name: str, default: str) -> str:
    """By hand: argparse alone would double the size of a standby."""
    found = default
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == name:
            found = following
        elif argument.startswith(f"{name}="):
            found = argument.partition("=")[2]
    return found
