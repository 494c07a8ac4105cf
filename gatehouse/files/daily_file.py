"""Append-only files, one a day: `<stem>_2026-11-01.log`. Days are UTC."""

import fcntl
import logging
import os
import time
from datetime import UTC, date, datetime
from pathlib import Path

from gatehouse.files.retention import Retention

log = logging.getLogger(__name__)

_MIDDLE_OF_WRITING_S = 0.02
_LONGEST_LINE = 1 << 20


class CutShortError(OSError):
    """The disk took only the first `lines`, whole ones, of what was to be appended; nothing of the others is left."""

    def __init__(self, cause: OSError, lines: int) -> None:
        super().__init__(cause.errno, cause.strerror)
        self.lines = lines


class DailyFile:
    """Appends whole lines, so that several processes may share a file, and forgets old days (see `retention`).

    Each call of `append` is one `write(2)` to a descriptor opened with O_APPEND: on a local file system lines of
    different processes never mix. What a full disk takes half of is taken back to the last whole line, which nobody who
    reads whole lines can notice. What a crash has cut short stays a line of its own, and what follows is whole. Files
    are 0640 unless said: records name people.

    A file that was renamed or removed, by a tool that rotates logs or by hand, is begun anew at the next line, with its
    directory if need be, and what had just been written to one that is removed is written again. One that was cut to
    nothing is written on.
    """

    def __init__(self, directory: Path, stem: str, retention_days: int, mode: int = 0o640) -> None:
        """`mode`: the permissions of new files."""
        self._directory = directory
        self._stem = stem
        self._retention = Retention(directory, stem, retention_days)
        self._path = directory
        self._day: date | None = None
        self._descriptor = -1
        self._torn = False
        self._mode = mode

    @property
    def retention_days(self) -> int:
        """May change."""
        return self._retention.days

    @retention_days.setter
    def retention_days(self, days: int) -> None:
        self._retention.days = days

    def append(self, lines: bytes, now: datetime | None = None) -> None:
        """Write `lines` (each ending in a newline) to today's file.

        Raises `OSError` when the disk refuses, and `CutShortError` when it takes some of the lines.
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
        """Return once everything appended is on the disk."""
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
        """Told when that is done: the log may be the file."""
        path, removed = self._path, self._removed()
        self._open(today)
        if removed:
            log.warning("%s was removed, and is begun anew", path)
        else:
            log.info("%s was renamed, and is begun anew", path)

    def _removed(self) -> bool:
        return os.fstat(self._descriptor).st_nlink == 0

    def _moved(self) -> bool:
        """Whether its name no longer leads to the file that is open. What can't be seen is written on."""
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False

    def _forget(self, now: datetime) -> None:
        """What is written is written, whatever becomes of files of days gone by."""
        try:
            self._retention.look(now)
        except OSError as error:
            log.warning("old files stay in %s for now: %s", self._directory, error)

    def _write(self, lines: bytes) -> None:
        """Writers share a lock, so that who takes back half a line knows that nobody is in the middle of one."""
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
    """Not every network file system can; lines are written there all the same."""
    try:
        fcntl.flock(descriptor, how)
    except OSError:
        return False
    return True


def _taken_back(descriptor: int) -> bool:
    """Cut the file after its last whole line, and keep the lock that nobody shares; whether it could be done."""
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
    """Whether a file ends in the middle of a line, for good: another process may be in the middle of writing it."""
    seen = -1
    while (size := os.fstat(descriptor).st_size) != seen:
        if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
            return False
        seen = size
        time.sleep(_MIDDLE_OF_WRITING_S)
    return True
