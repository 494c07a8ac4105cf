"""Limits how many calls may wait at a time. When there are too many, holders of the most calls are refused."""

from collections import Counter

MOST = 1_000
"""Calls of one worker that wait for a decision: a busy worker answers that many in half a second."""


class Room:
    """Room for `most` calls. Beyond that, holders with fewer calls inside than the average are still admitted, up to
    twice as many calls in all: so a flood from one holder keeps out only itself."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._inside: Counter[str] = Counter()
        self._total = 0

    def enter(self, holder: str) -> bool:
        """Whether a call of `holder` may wait. If so, call `leave` afterwards."""
        if self._total >= self._most and not self._is_light(holder):
            return False
        self._inside[holder] += 1
        self._total += 1
        return True

    def leave(self, holder: str) -> None:
        self._total -= 1
        self._inside[holder] -= 1
        if not self._inside[holder]:
            del self._inside[holder]

    def _is_light(self, holder: str) -> bool:
        average = self._total / len(self._inside)
        return self._total < 2 * self._most and self._inside.get(holder, 0) < average
