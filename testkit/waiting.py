"""Waits for conditions that another process, thread or task fulfils: one rule, in one place.

A condition that raises does not hold yet. What comes and goes refuses connections meanwhile, and gives answers without
what is looked for. When time is up, the failure tells what was seen last, and what was raised last is its cause.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


def until(look: Callable[[], T], within_s: float = 10.0, what: str = "what was waited for") -> T:
    """What `look` returns, as soon as that is true. Fails the test when it is not in time: `what` did not come."""
    watch = _Watch(look, within_s, what)
    while not watch.holds():
        time.sleep(0.02)
    return watch.seen


async def until_async(look: Callable[[], T], within_s: float = 10.0, what: str = "what was waited for") -> T:
    """`until`, while the other tasks of this loop go on."""
    watch = _Watch(look, within_s, what)
    while not watch.holds():
        await asyncio.sleep(0.005)
    return watch.seen


class _Watch(Generic[T]):
    """Polls the condition, and once more when time is up."""

    seen: T

    def __init__(self, look: Callable[[], T], within_s: float, what: str) -> None:
        self._look, self._within_s, self._what = look, within_s, what
        self._deadline = time.monotonic() + within_s

    def holds(self) -> bool:
        late, raised, seen = time.monotonic() >= self._deadline, None, None
        try:
            seen = self.seen = self._look()
        except Exception as error:
            raised = error
        if late and not seen:
            raise AssertionError(f"{self._what}: not within {self._within_s} s, but {seen!r:.1000}") from raised
        return bool(seen)
