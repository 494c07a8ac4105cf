"""Append-only files, one a day: `<stem>_2026-11-01.log`. Days are UTC."""

import logging
import os
import time
from datetime import UTC, date, datetime
from pathlib import Path

from gatehouse.files.retention import Retention

log = logging.getLogger(__name__)

_MIDDLE_OF_WRITING_S = 0.02


class DailyFile:
    """Appends whole lines, so that several processes may share a file, and forgets old days (see `retention`).

    Each call of `append` is one `write(2)` to a descriptor opened with O_APPEND: on a local file system lines of
    different processes never mix. A line truncated by a full disk or a crash stays a line of its own, and the next one
    is complete. Files are 0640 by default: records name people.

    If the file was renamed or removed, by log rotation or by hand, the next line starts a new one, in a new directory
    if necessary; lines just written to a removed file are written again. A truncated file is continued.
    """

    def __init__(self, directory: Path, stem: str, retention_days: int, mode: int = 0o640) -> None:
        """`mode`: the permissions of new files."""
        self._directory = directory
        self._stem = stem
        self.retention = Retention(directory, stem, retention_days)
        self._path = directory
        self._day: date | None = None
        self._descriptor = -1
        self._torn = False
        self._mode = mode

    def append(self, lines: bytes, now: datetime | None = None) -> None:
        """Write `lines` (each ending in a newline) to today's file. Raises `OSError`."""
        now = now or datetime.now(UTC)
        if now.date() != self._day:
            self._open(now.date())
        elif self._moved():
            self._begin_anew(now.date())
        self._write(lines)
        if self._removed():
            self._begin_anew(now.date())
            self._write(lines)
        self._forget(now)

    def sync(self) -> None:
        """Return once everything appended is on disk."""
        if self._descriptor >= 0:
            os.fsync(self._descriptor)

    def close(self) -> None:
        """What was appended is on the disk."""
        try:
            self.sync()
        finally:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._descriptor, self._day = -1, None

    def _open(self, today: date) -> None:
        self.close()
        self._directory.mkdir(parents=True, exist_ok=True)
        self._path = self._directory / f"{self._stem}_{today}.log"
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, self._mode)
        self._day, self._torn = today, _torn(self._descriptor)

    def _begin_anew(self, today: date) -> None:
        """Logged only after writing: this file may be the log."""
        path, removed = self._path, self._removed()
        self._open(today)
        if removed:
            log.warning("%s was removed, and is begun anew", path)
        else:
            log.info("%s was renamed, and is begun anew", path)

    def _removed(self) -> bool:
        return os.fstat(self._descriptor).st_nlink == 0

    def _moved(self) -> bool:
        """Whether the path no longer leads to the open file. If that can't be checked, the open file is kept."""
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False

    def _forget(self, now: datetime) -> None:
        """Failing to delete old files must not fail a write."""
        try:
            self.retention.look(now)
        except OSError as error:
            log.warning("old files stay in %s for now: %s", self._directory, error)

    def _write(self, lines: bytes) -> None:
        if self._torn:
            lines = b"\n" + lines
        while lines:
            written = os.write(self._descriptor, lines)
            self._torn, lines = not lines[:written].endswith(b"\n"), lines[written:]


def _torn(descriptor: int) -> bool:
    """Whether a file permanently ends in the middle of a line; another process may just be writing it."""
    seen = -1
    while (size := os.fstat(descriptor).st_size) != seen:
        if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
            return False
        seen = size
        time.sleep(_MIDDLE_OF_WRITING_S)
    return True
