"""Ports for programs that need a port number before they listen."""

import os
import secrets
import socket
from collections.abc import Iterator
from itertools import cycle

_BELOW_THE_KERNELS = range(20_000, 32_000)
"""Below the kernel's ephemeral range (32768 and up): one of those could be taken before the program listens."""
_SHARES = 8


def free_port() -> int:
    """A free port of this process's share; a different one each time."""
    return next(port for port in _ports if _is_free(port))


def _share() -> Iterator[int]:
    """Parallel test processes never share a port; other processes rarely do, as each starts at a random port."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    mine = _BELOW_THE_KERNELS[worker % _SHARES :: _SHARES]
    start = secrets.randbelow(len(mine))
    return cycle([*mine[start:], *mine[:start]])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


_ports = _share()
