"""envoyproxy/ratelimit itself, built from Go modules into a cache of the user's, to be measured and compared with."""

import os
import shutil
import subprocess
from pathlib import Path

MODULE = "github.com/envoyproxy/ratelimit"
VERSION = "v1.4.1-0.20260122083618-3fb702589d36"
BUILD_S = 300
"""It takes 45 s of one core, after its dependencies are downloaded."""


class NotBuiltError(Exception):
    """Why there is no such program here."""


def built(command: str) -> Path:
    """One of its programs (`service_cmd`, `config_check_cmd`), built by the Go toolchain at first use.

    Raises `NotBuiltError` without a Go toolchain, or if the build fails.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gatehouse-bench"
    binary = cache / VERSION / command
    if binary.exists():
        return binary
    if shutil.which("go") is None:
        raise NotBuiltError("there is no Go toolchain to build envoyproxy/ratelimit")
    environment = {**os.environ, "GOBIN": str(binary.parent)}
    package = f"{MODULE}/src/{command}@{VERSION}"
    try:
        done = subprocess.run(
            ["go", "install", package], env=environment, capture_output=True, text=True, timeout=BUILD_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise NotBuiltError(f"envoyproxy/ratelimit is not built within {BUILD_S} s") from None
    if done.returncode:
        raise NotBuiltError(f"envoyproxy/ratelimit is not built: {done.stderr.strip().splitlines()[-1]}")
    return binary
