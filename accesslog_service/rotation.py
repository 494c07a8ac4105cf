"""Envoy's JSON log, a file a day: Envoy writes to one file only, so at midnight (UTC) that gets the name of its day.

Envoy goes on writing to the renamed file until it is told to open its log anew; so nothing is renamed before Envoy can
be told. Lines of the first seconds of a day may stand in the file of the day before. A file that somebody else renames
or removes, Envoy is told of within a second.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import aiohttp

from gatehouse.contract.access_log import DAILY_STEM, FILE_NAME
from gatehouse.files.retention import Retention

log = logging.getLogger(__name__)

AFTER_MIDNIGHT = timedelta(seconds=2)
"""Envoy writes once a second: by then, what ended on the day before is in its file."""
LOOK_EVERY_S = 0.5
AGAIN_S = 1.0
ENVOYS_OWN = "envoy.log"
"""What Envoy says of itself."""

Files = Mapping[str, int | None]
"""Inodes by name."""

Reopen = Callable[[], Awaitable[None]]
"""Has Envoy open its logs anew. Raises `OSError`, `aiohttp.ClientError` or `TimeoutError` when it can't be told."""


class Rotation:
    """`reachable` and `reopen` ask, and tell, Envoy. One process a gateway has a rotation."""

    def __init__(
        self,
        directory: Path,
        retention_days: int,
        reachable: Reopen,
        reopen: Reopen,
        furnish: Callable[[], None] = lambda: None,
    ) -> None:
        """`furnish` is called for a directory that was made again."""
        self._directory = directory
        self.retention = Retention(directory, DAILY_STEM, retention_days)
        self._reachable = reachable
        self._reopen = reopen
        self._furnish = furnish
        self._day = _day_of(directory / FILE_NAME)
        self._open: Files = {}
        self._place: int | None = None
        self._due = True
        self._failing = True  # Envoy is not there yet: nothing to tell

    async def run(self) -> None:
        """Rotate at every midnight, and at once what an earlier day has left. Never returns."""
        while True:
            await asyncio.sleep(AGAIN_S if self._failing else LOOK_EVERY_S)
            await self.look(datetime.now(UTC))

    async def look(self, now: datetime) -> None:
        """Do what is due. What fails is told once, and tried again."""
        try:
            self._find_directory()
            if (now - AFTER_MIDNIGHT).date() > self._day:
                await self._rotate(now.date())
            elif self._due or self._moved():
                await self._reopened()
            self._day = min(self._day, now.date())  # a clock that was ahead is put back
            self.retention.look(now)
        except (OSError, aiohttp.ClientError) as error:
            self._due = True
            self._tell(error)
        else:
            self._failing = False

    async def rotated(self, today: date) -> bool:
        """Whether the file of earlier days is out of the way. Without Envoy it stays until there is one."""
        try:
            await self._rotate(today)
        except (OSError, aiohttp.ClientError) as error:
            self._tell(error)
            return False
        return True

    async def _rotate(self, today: date) -> None:
        current, named = self._directory / FILE_NAME, self._directory / f"{DAILY_STEM}_{self._day}.log"
        await self._reachable()
        if current.exists() and not named.exists():
            current.rename(named)
        await self._reopened()
        self._day = today

    async def _reopened(self) -> None:
        found = self._files()
        await self._reopen()
        self._open, self._due = {**self._open, **found}, False

    def _find_directory(self) -> None:
        """Make it, if it was removed. Any process that writes there may have done so before."""
        self._directory.mkdir(parents=True, exist_ok=True)
        found = _inode(self._directory)
        if self._place not in (None, found):
            log.warning("%s/ was removed, and is made again", self._directory)
            self._furnish()
            self._due = True
        self._place = found

    def _moved(self) -> bool:
        """Whether a name leads elsewhere than when Envoy was last told to open it, or nowhere now.

        Envoy does so when it has something to write: until then there is no file, and nothing is lost.
        """
        return self._files() != self._open

    def _files(self) -> Files:
        """Those that Envoy writes here, by name; None: it did, and there is none."""
        found = {name: _inode(self._directory / name) for name in (FILE_NAME, ENVOYS_OWN)}
        return {name: inode for name, inode in found.items() if inode is not None or name in self._open}

    def _tell(self, error: Exception) -> None:
        if not self._failing:
            reason = str(error) or type(error).__name__
            log.warning("Envoy's log of %s is not looked after until that is possible: %s", self._day, reason)
        self._failing = True


def _inode(file: Path) -> int | None:
    try:
        return file.stat().st_ino
    except FileNotFoundError:
        return None


def _day_of(file: Path) -> date:
    """The day that a file was last written to; today, if there is none or it can't be seen."""
    try:
        return datetime.fromtimestamp(file.stat().st_mtime, UTC).date()
    except OSError:
        return datetime.now(UTC).date()
