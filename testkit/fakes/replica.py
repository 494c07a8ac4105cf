"""Model servers that are processes of their own: to be killed, stopped and brought back."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from types import TracebackType
from typing import Self

import httpx2 as httpx

from testkit.ports import free_port
from testkit.running_gateway import ROOT
from testkit.waiting import until

START_TIMEOUT_S = 20


class Replica:
    """A demo model server on a port of its own, which takes `delay_ms` for a token."""

    def __init__(self, delay_ms: float = 20) -> None:
        self.port = free_port()
        self.delay_ms = delay_ms
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def address(self) -> str:
        """As records name it."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        """Return once it is healthy."""
        options = ["--port", str(self.port), "--delay-ms", str(self.delay_ms)]
        self._process = subprocess.Popen([sys.executable, "-m", "demo_model_server", *options], cwd=ROOT)
        until(self._healthy, START_TIMEOUT_S, "the replica")

    def kill(self) -> None:
        """SIGKILL. Without effect when it is dead."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def stop(self) -> None:
        """SIGSTOP: connections stay, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def _healthy(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=1).status_code == 200
        return False
