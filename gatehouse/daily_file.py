"""Append-only files, one a day: `<stem>_2026-11-01.log`. Days are UTC."""

import os
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path


class DailyFile:
    """Appends whole lines, so that several processes may share a file, and forgets old days.

    Each call of `append` is one `write(2)` to a descriptor opened with O_APPEND: on a local file system lines of
    different processes never mix. Files are 0640: records name people.
    """

    def __init__(self, directory: Path, stem: str, retention_days: int) -> None:
        self._directory = directory
        self._stem = stem
        self._retention = timedelta(days=retention_days)
        self._day: date | None = None
        self._descriptor = -1

    def append(self, lines: bytes, now: datetime | None = None) -> None:
        """Write `lines` (each ending in a newline) to today's file. Raises `OSError` when the disk refuses."""
        today = (now or datetime.now(UTC)).date()
        if today != self._day:
            self._open(today)
        while lines:
            lines = lines[os.write(self._descriptor, lines) :]

    def sync(self) -> None:
        """Return once everything appended is on the disk."""
        if self._descriptor >= 0:
            os.fsync(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._day = -1, None

    def _open(self, today: date) -> None:
        self.close()
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"{self._stem}_{today}.log"
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._day = today
        self._forget(today - self._retention)

    def _forget(self, before: date) -> None:
        dated = re.compile(rf"{re.escape(self._stem)}_(\d{{4}}-\d{{2}}-\d{{2}})\.log(\.gz)?")
        for path in self._directory.iterdir():
            match = dated.fullmatch(path.name)
            if match and match[1] < str(before):
                path.unlink(missing_ok=True)
