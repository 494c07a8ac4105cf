"""Append-only files, one a day: `<stem>_2026-11-01.log`. Days are UTC."""

import os
import re
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

_MIDDLE_OF_WRITING_S = 0.02


class DailyFile:
    """Appends whole lines, so that several processes may share a file, and forgets old days.

    Each call of `append` is one `write(2)` to a descriptor opened with O_APPEND: on a local file system lines of
    different processes never mix. What a full disk or a crash has cut short stays a line of its own, and what follows
    is whole. Files are 0640 unless said: records name
    people.
    """

    def __init__(self, directory: Path, stem: str, retention_days: int, mode: int = 0o640) -> None:
        """`mode`: the permissions of new files. `retention_days` may change; it counts when a day begins."""
        self._directory = directory
        self._stem = stem
        self.retention_days = retention_days
        self._day: date | None = None
        self._descriptor = -1
        self._torn = False
        self._mode = mode

    def append(self, lines: bytes, now: datetime | None = None) -> None:
        """Write `lines` (each ending in a newline) to today's file. Raises `OSError` when the disk refuses."""
        today = (now or datetime.now(UTC)).date()
        if today != self._day:
            self._open(today)
        if self._torn:
            lines = b"\n" + lines
        while lines:
            written = os.write(self._descriptor, lines)
            self._torn, lines = not lines[:written].endswith(b"\n"), lines[written:]

    def sync(self) -> None:
        """Return once everything appended is on the disk."""
        if self._descriptor >= 0:
            os.fsync(self._descriptor)

    def close(self) -> None:
        """What was appended is on the disk."""
        self.sync()
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._day = -1, None

    def _open(self, today: date) -> None:
        self.close()
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"{self._stem}_{today}.log"
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, self._mode)
        self._day, self._torn = today, _torn(self._descriptor)
        forget(self._directory, self._stem, today - timedelta(days=self.retention_days))


def forget(directory: Path, stem: str, before: date) -> None:
    """Delete the files `<stem>_<day>.log`, compressed or not, of the days before `before`."""
    dated = re.compile(rf"{re.escape(stem)}_(\d{{4}}-\d{{2}}-\d{{2}})\.log(\.gz|\.zst)?")
    for path in directory.iterdir():
        match = dated.fullmatch(path.name)
        if match and match[1] < str(before):
            path.unlink(missing_ok=True)


def _torn(descriptor: int) -> bool:
    """Whether a file ends in the middle of a line, for good: another process may be in the middle of writing it."""
    seen = -1
    while (size := os.fstat(descriptor).st_size) != seen:
        if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
            return False
        seen = size
        time.sleep(_MIDDLE_OF_WRITING_S)
    return True
