"""A circuit breaker: after some failures a store is no longer called, except by probes.

The pattern is Nygard's (Release It!, 2nd edition, chapter 5.2). Half-open is the time of a probe: nothing else is sent
meanwhile. Times are seconds of a monotonic clock.
"""

import math


class Breaker:
    """Closed until `failures` calls in a row have failed, or one has failed hard; open until a probe succeeds.

    Overlapping calls that fail count as one failure: a pause of the store opens the breaker after `failures` times the
    longest call, however many requests wait for it. The caller sends the probes, each after `wait_s` seconds: at first
    `first_wait_s`, then twice as long each time, up to `longest_wait_s`. A breaker that opens again soon after it has
    closed waits longer: a store that flaps is probed no more often than one that is down.
    """

    def __init__(self, failures: int = 3, first_wait_s: float = 0.25, longest_wait_s: float = 1.0) -> None:
        self._failures = failures
        self._first_wait_s = first_wait_s
        self._longest_wait_s = longest_wait_s
        self._closed = True
        self._count = 0
        self._failed_at = -math.inf
        self._closed_at = -math.inf
        self._wait_s = first_wait_s

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def wait_s(self) -> float:
        """How long to wait before the next probe."""
        return self._wait_s

    def succeeded(self, began: float, now: float) -> bool:
        """Record a successful call; True if that closed the breaker.

        A call that began before the last failure says nothing about the store since, and is ignored.
        """
        if began < self._failed_at:
            return False
        self._count = 0
        closes = not self._closed
        if closes:
            self._closed, self._closed_at = True, now
        return closes

    def failed(self, began: float, now: float, *, hard: bool = False) -> bool:
        """Record a failed call; True if that opened the breaker."""
        if began < self._failed_at:
            return False
        self._failed_at = now
        if not self._closed:
            self._wait_longer()
            return False
        self._count += 1
        if self._count < self._failures and not hard:
            return False
        self._open(now)
        return True

    def _open(self, now: float) -> None:
        self._closed = False
        if now - self._closed_at > self._longest_wait_s:
            self._wait_s = self._first_wait_s
        else:
            self._wait_longer()

    def _wait_longer(self) -> None:
        self._wait_s = min(2 * self._wait_s, self._longest_wait_s)
