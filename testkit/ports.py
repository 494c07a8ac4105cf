"""Ports for programs that have to be told theirs before they listen on it."""

import os
import secrets
import socket
from collections.abc import Iterator
from itertools import cycle

_BELOW_THE_KERNELS = range(20_000, 32_000)
"""The kernel picks from 32768 on, for port 0 and for whoever connects: one of those could be gone before the program
that was told of it listens."""
_SHARES = 8


def free_port() -> int:
    """A port of this process's share that nobody listens on now; another one every time."""
    return next(port for port in _ports if _is_free(port))


def _share() -> Iterator[int]:
    """Test processes that run beside each other never meet; others hardly, as each begins anywhere."""
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
