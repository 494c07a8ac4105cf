"""One answer for everyone who asks at the same time, so that asking more often costs nothing more."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Cached(Generic[T]):
    """Calls `fetch` at most once at a time and keeps its result for `seconds` from its end. Exceptions are not kept."""

    def __init__(self, fetch: Callable[[], Awaitable[T]], seconds: float) -> None:
        self._fetch = fetch
        self._seconds = seconds
        self._task: asyncio.Task[T] | None = None
        self._until = 0.0

    async def get(self) -> T:
        """The kept result, or that of the call now running, or of a new one. Raises what `fetch` raises."""
        if self._task is None or (self._task.done() and self._stale(self._task)):
            self._task = asyncio.create_task(self._timed())
        return await asyncio.shield(self._task)

    def forget(self) -> None:
        """The next who asks gets a new answer, even if one is under way."""
        self._task = None

    def _stale(self, task: asyncio.Task[T]) -> bool:
        return task.cancelled() or task.exception() is not None or asyncio.get_running_loop().time() >= self._until

    async def _timed(self) -> T:
        result = await self._fetch()
        self._until = asyncio.get_running_loop().time() + self._seconds
        return result
