"""Detects steps of a clock by comparing it with a monotonic one."""

from typing import Literal

Clock = Literal["redis", "machine"]

STEP_S = 1.0


class ClockWatch:
    """Compares one clock with a monotonic one. Drift shows as many small differences, a step as a large one."""

    def __init__(self) -> None:
        self._ahead_s: float | None = None

    def step_s(self, clock_s: float, monotonic_s: float) -> float:
        """How far the clock has stepped since the last call, in seconds, forward or (negative) back; 0 for no step."""
        before, self._ahead_s = self._ahead_s, clock_s - monotonic_s
        step = 0.0 if before is None else self._ahead_s - before
        return step if abs(step) > STEP_S else 0.0
