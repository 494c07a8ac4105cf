"""Follows the request log: reads new lines of each file from its last position.

Two gateways with one directory both follow it; the first to commit counts for both. A file is identified by its first
line. If a replaced or shorter file of the same name begins with the same line, it is the same file, edited, and is
counted again. If it begins with another line, the old file was rotated or truncated: its sums stay, and its unread
rest is read in the copy.
"""

import asyncio
import logging
import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gatehouse.files.retention import copies, opened
from portal_service.tally.counting import ModelLabel, counted
from portal_service.tally.usage_db import KEPT_LIVE_S, UsageDb, add, forget

log = logging.getLogger(__name__)

PERIOD_S = 1.0
CHUNK_BYTES = 512 * 1024
"""About 800 lines, counted in some 5 ms."""
HEAD_BYTES = 1024
BREATH_S = 0.02
"""Pause between chunks of a backlog: pages go first."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A log file with something new in it, from byte `position` on."""

    path: Path
    inode: int
    position: int
    replaced: bool


class Follower:
    """Follows the `requests_*.log` files in `directory`. `model` bounds the names of models."""

    def __init__(self, directory: Path, db: UsageDb, model: ModelLabel) -> None:
        self._directory = directory
        self._db = db
        self._model = model
        self._opened = False
        self._failing = False

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until `stop` is set, then read once more. Failures are logged once and retried."""
        while not stop.is_set():
            more = await asyncio.to_thread(self._attempt)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), BREATH_S if more else PERIOD_S)
        await asyncio.to_thread(self._attempt)
        self._db.close()

    def catch_up(self) -> None:
        """Read everything there is. Raises `sqlite3.Error` and `OSError`."""
        while self.read_on():
            pass

    def read_on(self) -> bool:
        """Read the next chunk of each file; whether one was full, so that there may be more.

        Raises `sqlite3.Error` and `OSError`.
        """
        if not self._opened:
            self._open()
            self._opened = True
        elif not self._db.there:
            log.warning("the tally was removed, and is made again from the request log that is left")
            self._open()
        with self._db.reading() as db:
            if not self._unread(db):
                return False
        with self._db.writing() as db:
            return any(self._read(db, unread, time.time()) for unread in self._unread(db))

    def _open(self) -> None:
        """A db that knows nothing has all parts of days to read. Later ones it has read before they were parts."""
        self._db.open()
        with self._db.writing() as db:
            if db.execute("SELECT count(*) FROM files").fetchone() == (0,):
                parts = self._directory.glob("requests_????-??-??.[0-9]*.log")
                rows = ((path.name, path.stat().st_ino, 0) for path in sorted(parts))
                db.executemany("INSERT INTO files VALUES (?, ?, ?)", rows)

    def _attempt(self) -> bool:
        try:
            more = self.read_on()
        except (sqlite3.Error, OSError) as error:
            return self._failed(error)
        self._failing = False
        return more

    def _failed(self, error: Exception) -> bool:
        if getattr(error, "sqlite_errorname", "") == "SQLITE_BUSY":
            return False  # another gateway reads
        if isinstance(error, FileNotFoundError):
            return False  # a log file was just deleted
        if not self._failing:
            log.error("the tally can't be kept, /v1/usage and /ui fall behind until it can: %s", error)
        self._failing, self._opened = True, False
        return False

    def _unread(self, db: sqlite3.Connection) -> list[Unread]:
        known = {name: (inode, position) for name, inode, position in db.execute("SELECT * FROM files")}
        found = []
        days = self._directory.glob("requests_????-??-??.log")
        for path in sorted({*days, *(self._directory / name for name in known)}):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue  # it was just renamed or deleted
            inode, position = known.get(path.name, (status.st_ino, 0))
            replaced = inode != status.st_ino or status.st_size < position
            if replaced or status.st_size > position:
                found.append(Unread(path, status.st_ino, 0 if replaced else position, replaced))
        return found

    def _read(self, db: sqlite3.Connection, unread: Unread, now: float) -> bool:
        """Whether the chunk was full."""
        name, position = unread.path.name, unread.position
        with unread.path.open("rb") as file:
            head = file.readline(HEAD_BYTES)
            if unread.replaced:
                self._replaced(db, unread, head, now)
            file.seek(position)
            taken, full = self._count(db, name, file, now)
        if taken or unread.replaced:
            db.execute("REPLACE INTO files VALUES (?, ?, ?)", (name, unread.inode, position + taken))
            db.execute("REPLACE INTO heads VALUES (?, ?)", (name, head))
        return full

    def _replaced(self, db: sqlite3.Connection, unread: Unread, head: bytes, now: float) -> None:
        """The file is not the one that was read, or is shorter."""
        name = unread.path.name
        known = db.execute("SELECT head, position FROM heads NATURAL JOIN files WHERE name = ?", (name,)).fetchone()
        if known is None or known[0] == head:
            db.execute("DELETE FROM days WHERE file = ?", (name,))
            return
        self._read_copy(db, unread.path, known[0], known[1], now)
        done = f"{name}#{time.time_ns()}"  # the sums of a file that was replaced
        db.execute("UPDATE days SET file = ? WHERE file = ?", (done, name))

    def _read_copy(self, db: sqlite3.Connection, path: Path, head: bytes, position: int, now: float) -> None:
        """Read the old file's unread rest, if it is still beside the new one."""
        for copy in copies(path):
            with opened(copy) as file:
                if head and file.read(len(head)) == head:
                    file.seek(position)
                    while self._count(db, path.name, file, now)[0]:
                        pass
                    return

    def _count(self, db: sqlite3.Connection, name: str, file: BinaryIO, now: float) -> tuple[int, bool]:
        """Count whole lines; returns their size in bytes, and whether there may be more."""
        start = file.tell()
        chunk = file.read(CHUNK_BYTES)
        full = len(chunk) == CHUNK_BYTES
        end = chunk.rfind(b"\n") + 1 or (len(chunk) if full else 0)
        if end:
            sums = counted(chunk[:end].splitlines(), self._model, now - KEPT_LIVE_S)
            add(db, name, sums)
            forget(db, now)
            if sums.unread:
                log.warning("%s: %d lines are no records, and were not counted", name, sums.unread)
        file.seek(start + end)
        return end, full
