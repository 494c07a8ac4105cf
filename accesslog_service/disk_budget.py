"""How much of the disk logs may take (`logging.max_gb`): beyond that, the oldest days go before their time, and it is
told. Without a figure, half of the file system that they are on.

The files of today stay whatever their size; strangers can't fill them (`accesslog_service.strangers`).
"""

import asyncio
import logging
import re
import shutil
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from pathlib import Path

from gatehouse.files.permissions import close_logs

log = logging.getLogger(__name__)

LOOK_S = 60.0
ENVOY_LOG = "envoy.log"
MOST_OF_ENVOY_LOG = 64 * 1024 * 1024
"""Envoy's log of itself, which is no file a day and says little: what is beyond that is cut off, not rotated."""

_DATED = re.compile(r"[a-z_]+_(\d{4}-\d{2}-\d{2})\.log(\.gz|\.zst)?")


class Room:
    """`max_gb` says how much there may be now; the configuration changes while the gateway runs."""

    def __init__(self, directory: Path, max_gb: Callable[[], float | None]) -> None:
        self._directory = directory
        self._max_gb = max_gb

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
        sizes = {path: path.stat().st_size for path in self._directory.iterdir() if path.is_file()}
        for path in surplus(sizes.items(), self._most(), today):
            path.unlink(missing_ok=True)
            log.error("%s is deleted before its time: logs have reached logging.max_gb", path.name)
        own = self._directory / ENVOY_LOG
        if sizes.get(own, 0) > MOST_OF_ENVOY_LOG:
            log.error("%s is emptied: it has reached %d MiB", ENVOY_LOG, MOST_OF_ENVOY_LOG // 1024**2)
            with own.open("r+b") as file:
                file.truncate(0)

    def _most(self) -> int:
        max_gb = self._max_gb()
        if max_gb is not None:
            return int(max_gb * 1_000_000_000)
        return shutil.disk_usage(self._directory).total // 2


def surplus(sizes: Iterable[tuple[Path, int]], most: int, today: date) -> list[Path]:
    """Of files and their sizes, those of the oldest days that have to go, so that no more than `most` is left."""
    found = list(sizes)
    over = sum(size for _, size in found) - most
    gone = []
    for _, path, size in sorted((_day(path), path, size) for path, size in found if _day(path) < str(today)):
        if over <= 0:
            break
        gone.append(path)
        over -= size
    return gone


def _day(path: Path) -> str:
    """Of a file a day; the end of time, of others."""
    match = _DATED.fullmatch(path.name)
    return match[1] if match else str(date.max)
