"""Append-only files, one a day: `<stem>_2026-11-01.log`. Days are UTC."""

import fcntl
import logging
import os
import time
from datetime import UTC, date, datetime
from pathlib import Path

from gatehouse.contract.failures import GatehouseError
from gatehouse.files.retention import Retention

log = logging.getLogger(__name__)

_MIDDLE_OF_WRITING_S = 0.02
_LONGEST_LINE = 1 << 20


class CutShortError(GatehouseError, OSError):
    """Only the first `lines` lines were written, completely; nothing of the others is in the file."""

    def __init__(self, cause: OSError, lines: int) -> None:
        super().__init__(cause.errno, cause.strerror)
        self.lines = lines


class DailyFile:
    """Appends whole lines, so that several processes may share a file, and deletes old days (see `retention`).

    Each call of `append` is one `write(2)` to a descriptor opened with O_APPEND: on a local file system lines of
    different processes never mix. If a full disk accepts half of a line, the file is truncated to the last whole line.
    A line that a crash cut short stays on its own; the next one is whole. Files are 0640 by default.

    A file that was renamed or removed, by a log rotator or by hand, is created again for the next line, with its
    directory if needed; lines just written to a removed file are written again. A truncated file is appended to.
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
        """Write `lines` (each ending in a newline) to today's file.

        Raises `OSError` if writing fails, and `CutShortError` if only some of the lines were written.
        """
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
        """Sync everything appended to the disk."""
        if self._descriptor >= 0:
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Sync and close the file."""
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
        """Log it only after reopening: the log may be this file."""
        path, removed = self._path, self._removed()
        self._open(today)
        if removed:
            log.warning("%s was removed; created it again", path)
        else:
            log.info("%s was renamed; started a new one", path)

    def _removed(self) -> bool:
        return os.fstat(self._descriptor).st_nlink == 0

    def _moved(self) -> bool:
        """Whether its name no longer leads to the open file. False if that can't be found out."""
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False

    def _forget(self, now: datetime) -> None:
        """Delete old files; an error is logged, since the line itself is written."""
        try:
            self.retention.look(now)
        except OSError as error:
            log.warning("can't delete old files in %s now: %s", self._directory, error)

    def _write(self, lines: bytes) -> None:
        """Writers hold a shared lock, so that truncating half a line can't cut another process's line."""
        data, written = b"\n" + lines if self._torn else lines, 0
        locks = _lock(self._descriptor, fcntl.LOCK_SH)
        try:
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
            self._torn = False
        except OSError as error:
            if not written:
                raise
            self._torn = not (locks and _taken_back(self._descriptor))
            raise CutShortError(error, data[len(data) - len(lines) : written].count(b"\n")) from error
        finally:
            _lock(self._descriptor, fcntl.LOCK_UN)


def _lock(descriptor: int, how: int) -> bool:
    """Returns whether the lock is held. Some network file systems have none; lines are written nevertheless."""
    try:
        fcntl.flock(descriptor, how)
    except OSError:
        return False
    return True


def _taken_back(descriptor: int) -> bool:
    """Truncate the file after its last whole line, under an exclusive lock. Returns whether that succeeded."""
    if not _lock(descriptor, fcntl.LOCK_EX):
        return False
    size = os.fstat(descriptor).st_size
    begin = max(0, size - _LONGEST_LINE)
    whole = os.pread(descriptor, size - begin, begin).rfind(b"\n") + 1
    try:
        if whole or not begin:
            os.ftruncate(descriptor, begin + whole)
    except OSError:
        return False
    return bool(whole or not begin)


def _torn(descriptor: int) -> bool:
    """Whether a file ends in an incomplete line, checked again later: another process may still be writing it."""
    seen = -1
    while (size := os.fstat(descriptor).st_size) != seen:
        if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
            return False
        seen = size
        time.sleep(_MIDDLE_OF_WRITING_S)
    return True
