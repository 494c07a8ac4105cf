"""Old daily files: their names, which of them to delete, and when.

A clock that is wrong by weeks makes today's log look old. So a file is deleted only if both its name and its
modification time are too old, one day's files an hour (by the monotonic clock), the oldest first: a wrong clock would
have to stay wrong for as many hours as there are files before the last one is lost.
"""

import glob
import gzip
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, cast

BETWEEN_S = 3600.0
FIRST_AFTER_S = 60.0
"""Time for a machine that has just started to set its clock."""

_MADE = r"(\.\d+|-\d{8}\d*)?(\.(gz|zst|xz|bz2))?"
DAY = rf"(?P<day>\d{{4}}-\d{{2}}-\d{{2}})(\.(?P<part>\d+))?\.log{_MADE}"
"""The end of a daily file's name: a finished part has a number, and log rotators and compression add more."""


def copies(file: Path) -> Iterator[Path]:
    """The files that `file` became, beside it: finished parts, and copies of a log rotator, with a number or a date,
    compressed or not."""
    made = re.compile(rf"{re.escape(file.stem)}(\.\d+)?\.log{_MADE}")
    for path in sorted(file.parent.glob(f"{glob.escape(file.stem)}.*log*")):
        if path != file and made.fullmatch(path.name):
            yield path


def opened(path: Path) -> BinaryIO:
    """Open for reading, decompressed if it is a gzip file."""
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


class Retention:
    """The files `<stem>_<day>.log` in `directory`, compressed or not, of which `days` days are kept."""

    def __init__(self, directory: Path, stem: str, days: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`days` may change."""
        self.days = days
        self._directory = directory
        self._dated = re.compile(rf"{re.escape(stem)}_{DAY}")
        self._monotonic = monotonic
        self._due = monotonic() + FIRST_AFTER_S

    def look(self, now: datetime) -> None:
        """Delete one day's old files, if it is time. Raises `OSError`."""
        if self._monotonic() >= self._due:
            self._due = self._monotonic() + BETWEEN_S
            too_old = self._too_old((now - timedelta(days=self.days)).date())
            for path in too_old.get(min(too_old, default=""), ()):
                path.unlink(missing_ok=True)

    def _too_old(self, before: date) -> dict[str, list[Path]]:
        """By day."""
        found: dict[str, list[Path]] = {}
        for path in self._directory.iterdir():
            match = self._dated.fullmatch(path.name)
            if match and match["day"] < str(before) and _day_of(path) < before:
                found.setdefault(match["day"], []).append(path)
        return found


def _day_of(path: Path) -> date:
    """The day it was last written to; today if another process has just deleted it."""
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC).date()
    except FileNotFoundError:
        return date.max
