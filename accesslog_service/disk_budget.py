"""How much of the disk logs may take (`logging.max_gb`): beyond that, the oldest go before their time, and it is told
and counted. Without a figure, half of the file system that they are on.

A file that grows to an eighth of that is continued in another, so that of today, too, the oldest part can go. What is
written to now always stays. Sums of what has gone are in the tally.
"""

import asyncio
import logging
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import NamedTuple

from gatehouse.contract.access_log import DAILY_STEM, FILE_NAME
from gatehouse.files.permissions import close_logs
from gatehouse.files.retention import DAY, copies

log = logging.getLogger(__name__)

LOOK_S = 60.0
ENVOY_LOG = "envoy.log"
MOST_OF_ENVOY_LOG = 64 * 1024 * 1024
"""Envoy's log of itself, which is no file a day and says little: what is beyond that is cut off, not rotated."""

PARTS = 8
"""A file has at most so large a part of the room."""

_DATED = re.compile(rf"(?P<stem>[a-z_]+)_{DAY}")


class Room:
    """`max_gb` says how much there may be now; the configuration changes while the gateway runs. `dropped` is told of
    the bytes of each file that goes."""

    def __init__(
        self, directory: Path, max_gb: Callable[[], float | None], dropped: Callable[[int], None] = lambda _: None
    ) -> None:
        self._directory = directory
        self._max_gb = max_gb
        self._dropped = dropped

    async def keep(self) -> None:
        """Look every minute, for ever."""
        while True:
            try:
                await asyncio.to_thread(self.make, datetime.now(UTC).date())
            except OSError as error:
                log.warning("nobody looks after the size of %s: %s", self._directory, error)
            await asyncio.sleep(LOOK_S)

    def make(self, today: date) -> None:
        """Delete what there is no room for, and close to others what an Envoy that runs by itself has left open. Raises
        `OSError`."""
        close_logs(self._directory)
        most = self._most()
        sizes = {path: path.stat().st_size for path in self._directory.iterdir() if path.is_file()}
        for path in surplus(sizes.items(), most, today):
            path.unlink(missing_ok=True)
            self._dropped(sizes[path])
            log.error("%s is deleted before its time: logs have reached logging.max_gb", path.name)
        self._begin_parts(most // PARTS, today)  # which stay until the next look, so that the tally has read them
        own = self._directory / ENVOY_LOG
        if sizes.get(own, 0) > MOST_OF_ENVOY_LOG:
            log.error("%s is emptied: it has reached %d MiB", ENVOY_LOG, MOST_OF_ENVOY_LOG // 1024**2)
            with own.open("r+b") as file:
                file.truncate(0)

    def _begin_parts(self, most: int, today: date) -> None:
        """Give another name to what is written to and has grown to `most`: whoever writes there notices, and begins the
        file anew (`gatehouse.files.daily_file`, `accesslog_service.rotation`)."""
        for path in (*self._directory.glob(f"*_{today}.log"), self._directory / FILE_NAME):
            if path.exists() and path.stat().st_size >= most:
                day = path.name if path.name != FILE_NAME else f"{DAILY_STEM}_{today}.log"
                path.rename(_free_name(path.with_name(day)))

    def _most(self) -> int:
        max_gb = self._max_gb()
        if max_gb is not None:
            return int(max_gb * 1_000_000_000)
        return shutil.disk_usage(self._directory).total // 2


def surplus(sizes: Iterable[tuple[Path, int]], most: int, today: date) -> list[Path]:
    """Of files and their sizes, the oldest that have to go, so that no more than `most` is left. What is written to now
    stays. Of one day Envoy's log goes before the request log, which would be made whole again from it."""
    found = list(sizes)
    over = sum(size for _, size in found) - most
    gone = []
    for place, path, size in sorted((_place(path), path, size) for path, size in found):
        if over > 0 and (place.day < str(today) or (place.day == str(today) and place.part < _WHOLE)):
            gone.append(path)
            over -= size
    return gone


class _Place(NamedTuple):
    """In the order in which files go."""

    day: str
    stem: str
    part: int


_WHOLE = sys.maxsize  # the file that bears the name of its day: it holds what came last
_NO_DAY = _Place(str(date.max), "", _WHOLE)


def _place(path: Path) -> _Place:
    match = _DATED.fullmatch(path.name)
    if match is None:
        return _NO_DAY
    return _Place(match["day"], match["stem"], int(match["part"] or _WHOLE))


def _free_name(file: Path) -> Path:
    """Of the next part of `file`."""
    parts = [place.part for path in copies(file) if (place := _place(path)).part < _WHOLE]
    return file.with_name(f"{file.stem}.{max(parts, default=0) + 1}.log")
