"""A short-lived cache that shares one call among concurrent callers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Cached(Generic[T]):
    """Calls `fetch` at most once at a time; caches its result, but no exception, for `seconds` from its end."""

    def __init__(self, fetch: Callable[[], Awaitable[T]], seconds: float) -> None:
        self._fetch = fetch
        self._seconds = seconds
        self._task: asyncio.Task[T] | None = None
        self._until = 0.0

    async def get(self) -> T:
        """The cached result, or that of the running call, or of a new one. Raises what `fetch` raises."""
        if self._task is None or (self._task.done() and self._stale(self._task)):
            self._task = asyncio.create_task(self._timed())
        return await asyncio.shield(self._task)

    def forget(self) -> None:
        """The next caller gets a fresh result, even if a call is running."""
        self._task = None

    def _stale(self, task: asyncio.Task[T]) -> bool:
        return task.cancelled() or task.exception() is not None or asyncio.get_running_loop().time() >= self._until

    async def _timed(self) -> T:
        result = await self._fetch()
        self._until = asyncio.get_running_loop().time() + self._seconds
        return result
