"""envoyproxy/ratelimit itself, for tests that compare with it; they are skipped where it can't be built."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from testkit.original_build import NotBuiltError, built

PATIENCE_S = 15


def original(command: str) -> Path:
    """One of its programs."""
    try:
        return built(command)
    except NotBuiltError as error:
        pytest.skip(str(error))


@contextmanager
def running_original(environment: Mapping[str, str], log: Path) -> Iterator[None]:
    """The service, with its own defaults but for `environment`; the caller waits until it is up."""
    bare = {"PATH": os.environ["PATH"], "USE_STATSD": "false", "LOG_LEVEL": "error", "RUNTIME_WATCH_ROOT": "false"}
    with log.open("wb") as written:
        process = subprocess.Popen([original("service_cmd")], env=bare | dict(environment), stderr=written)
        try:
            yield
        finally:
            process.kill()
            process.wait(PATIENCE_S)


def accepts(folder: Path) -> bool:
    """Whether its configuration check accepts the files in the folder."""
    command: list[str | Path] = [original("config_check_cmd"), "-config_dir", str(folder)]
    return subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False).returncode == 0
