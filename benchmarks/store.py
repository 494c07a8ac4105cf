"""A Redis for one contender, on a unix socket, that keeps nothing on disk."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.machine import GATEWAY_CPUS, START_TIMEOUT_S, NotInstalledError, running


@contextmanager
def redis(folder: Path) -> Iterator[int]:
    """Its process id; it listens on `folder/redis.sock`, on the contender's CPUs: it is part of what that costs."""
    server = shutil.which("redis-server")
    if server is None:
        raise NotInstalledError("there is no redis-server")
    path = folder / "redis.sock"
    command: list[str | Path] = [server, "--port", "0", "--unixsocket", path, "--save", "", "--dir", folder]
    with running(command, folder, GATEWAY_CPUS) as pid:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not path.exists():
            if time.monotonic() > deadline:
                raise RuntimeError("redis-server did not come up")
            time.sleep(0.02)
        yield pid
