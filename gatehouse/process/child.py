"""A child process that is watched by its pid: one that this process has not started through asyncio."""

import asyncio
import os
import signal


class Child:
    """As `asyncio.subprocess.Process`, as far as a supervisor needs it. `pid` is a child that nobody has waited for."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        """None: it runs. Negative: the signal that ended it."""
        self._ended = asyncio.Event()
        watched = os.pidfd_open(pid)  # readable once it has ended
        asyncio.get_running_loop().add_reader(watched, self._reap, watched)

    async def wait(self) -> int:
        """Returns its exit status when it has ended."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.returncode is None:  # until then the pid is no other's
            os.kill(self.pid, number)

    def _reap(self, watched: int) -> None:
        asyncio.get_running_loop().remove_reader(watched)
        os.close(watched)
        _, status = os.waitpid(self.pid, 0)
        self.returncode = os.waitstatus_to_exitcode(status)
        self._ended.set()
