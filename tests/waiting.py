"""Waiting for what another process brings about."""

import time
from collections.abc import Callable


def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    """Return as soon as `condition` holds. Fails the test when it does not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.05)
