"""A child process watched by its pid, for children that asyncio did not start."""

import asyncio
import os
import signal


class Child:
    """The part of `asyncio.subprocess.Process` that a supervisor uses. `pid` must be an unreaped child."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        """None: it runs. Negative: the signal that ended it."""
        self._ended = asyncio.Event()
        watched = os.pidfd_open(pid)  # readable once it has ended
        asyncio.get_running_loop().add_reader(watched, self._reap, watched)

    async def wait(self) -> int:
        """Waits for its end; returns its exit status."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.returncode is None:  # until then the pid can't be reused
            os.kill(self.pid, number)

    def _reap(self, watched: int) -> None:
        asyncio.get_running_loop().remove_reader(watched)
        os.close(watched)
        _, status = os.waitpid(self.pid, 0)
        self.returncode = os.waitstatus_to_exitcode(status)
        self._ended.set()
