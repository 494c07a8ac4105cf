"""Envoy's JSON log, a file a day: Envoy writes to one file only, so at midnight (UTC) that gets the name of its day.

Envoy goes on writing to the renamed file until it is told to open its log anew; so nothing is renamed before Envoy can
be told. Lines of the first seconds of a day may stand in the file of the day before.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import aiohttp

from gatehouse.daily_file import forget
from gatehouse.envoy.access_log import DAILY_STEM, FILE_NAME

log = logging.getLogger(__name__)

AFTER_MIDNIGHT = timedelta(seconds=2)
"""Envoy writes once a second: by then, what ended on the day before is in its file."""
AGAIN_S = 10.0

Reopen = Callable[[], Awaitable[None]]
"""Has Envoy open its logs anew. Raises `OSError`, `aiohttp.ClientError` or `TimeoutError` when it can't be told."""


class Rotation:
    """`reachable` and `reopen` ask, and tell, Envoy. One process a gateway has a rotation."""

    def __init__(self, directory: Path, retention_days: int, reachable: Reopen, reopen: Reopen) -> None:
        self._directory = directory
        self.retention_days = retention_days
        self._reachable = reachable
        self._reopen = reopen
        self._day = _day_of(directory / FILE_NAME)

    async def run(self) -> None:
        """Rotate at every midnight, and at once what an earlier day has left. Never returns."""
        while True:
            now = datetime.now(UTC)
            due = datetime.combine(self._day + timedelta(days=1), time(), UTC) + AFTER_MIDNIGHT
            if now < due:
                await asyncio.sleep((due - now).total_seconds())
            elif not await self.rotated(now.date()):
                await asyncio.sleep(AGAIN_S)

    async def rotated(self, today: date) -> bool:
        """Whether the file of earlier days is out of the way. Without Envoy it stays until there is one."""
        current, named = self._directory / FILE_NAME, self._directory / f"{DAILY_STEM}_{self._day}.log"
        try:
            await self._reachable()
            if current.exists() and not named.exists():
                current.rename(named)
            await self._reopen()
        except (OSError, aiohttp.ClientError) as error:
            log.warning("Envoy's log of %s is not rotated yet: %s", self._day, error or type(error).__name__)
            return False
        self._day = today
        forget(self._directory, DAILY_STEM, today - timedelta(days=self.retention_days))
        return True


def _day_of(file: Path) -> date:
    """The day that a file was last written to; today, if there is none."""
    try:
        return datetime.fromtimestamp(file.stat().st_mtime, UTC).date()
    except FileNotFoundError:
        return datetime.now(UTC).date()
