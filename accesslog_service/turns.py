"""Whose turn it is: several who can do the same work, of whom some are preferred and some may fail."""

import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

REST_S = 10.0
"""Who has failed is asked last for so long: a process that hangs costs a time-out each time."""

T = TypeVar("T")


class Turns(Generic[T]):
    """Each of the first `preferred` of `workers` in turn; when none of them is well, the others; then who failed.

    `clock` is monotonic, in seconds.
    """

    def __init__(self, workers: Sequence[T], preferred: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._workers = workers
        self._preferred = preferred
        self._clock = clock
        self._turn = 0
        self._taken = [0] * len(workers)
        self._failed_at = [float("-inf")] * len(workers)

    def __len__(self) -> int:
        return len(self._workers)

    def next(self) -> T:
        """The one to ask now. There must be one."""
        now = self._clock()
        chosen = min(range(len(self._workers)), key=lambda i: self._order(i, now))
        self._turn += 1
        self._taken[chosen] = self._turn
        return self._workers[chosen]

    def failed(self, worker: T) -> None:
        """It did not do it."""
        self._failed_at[self._workers.index(worker)] = self._clock()

    def _order(self, i: int, now: float) -> tuple[bool, bool, int]:
        rests = now < self._failed_at[i] + REST_S
        return rests, not rests and i >= self._preferred, self._taken[i]
