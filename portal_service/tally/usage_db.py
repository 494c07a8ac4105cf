"""The tally's SQLite file. Sums and the position they were read up to change in one transaction.

The file may be deleted: it is rebuilt from the remaining request logs.
"""

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from pathlib import Path

from portal_service.tally.counting import Counted, Day, ErrorGroup, Step

log = logging.getLogger(__name__)

KEPT_DAYS = 62
"""Two months, independent of the request log's retention."""
KEPT_LIVE_S = 600
KEPT_MISTAKES_S = 3600
MAX_MISTAKES = 200

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS files (name TEXT PRIMARY KEY, inode INTEGER, position INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS heads (name TEXT PRIMARY KEY, head BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS days (
  file TEXT, day TEXT, user TEXT, key TEXT, requests INTEGER, prompt_tokens INTEGER, completion_tokens INTEGER,
  cost_nano_usd INTEGER, team TEXT, tier TEXT, seen REAL, admitted INTEGER,
  PRIMARY KEY (user, day, key, file)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS days_by_day ON days (day);
CREATE TABLE IF NOT EXISTS steps (
  start INTEGER, model TEXT, requests INTEGER, failed INTEGER, refused INTEGER, tokens INTEGER, ttft_ms REAL,
  timed INTEGER, PRIMARY KEY (start, model)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mistakes (
  status INTEGER, code TEXT, model TEXT, user TEXT, limited_by TEXT, first REAL, last REAL, times INTEGER,
  PRIMARY KEY (status, code, model, user, limited_by)) WITHOUT ROWID;
"""

_ADD_DAY = """
INSERT INTO days
  (file, day, user, key, requests, prompt_tokens, completion_tokens, cost_nano_usd, team, tier, seen, admitted)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
  requests = requests + excluded.requests, prompt_tokens = prompt_tokens + excluded.prompt_tokens,
  completion_tokens = completion_tokens + excluded.completion_tokens,
  cost_nano_usd = coalesce(cost_nano_usd + excluded.cost_nano_usd, cost_nano_usd, excluded.cost_nano_usd),
  team = excluded.team, tier = excluded.tier, seen = max(seen, excluded.seen),
  admitted = coalesce(admitted, 0) + excluded.admitted
"""
_ADD_STEP = """
INSERT INTO steps VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
  requests = requests + excluded.requests, failed = failed + excluded.failed, refused = refused + excluded.refused,
  tokens = tokens + excluded.tokens, ttft_ms = ttft_ms + excluded.ttft_ms, timed = timed + excluded.timed
"""
_ADD_MISTAKE = """
INSERT INTO mistakes VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
  first = min(first, excluded.first), last = max(last, excluded.last), times = times + excluded.times
"""


_of_day, _of_step, _of_mistake = (attrgetter(*(each.name for each in fields(kind))) for kind in (Day, Step, ErrorGroup))


class UsageDb:
    """The tally in the file at `path`. Its calls block for milliseconds; call them from a thread.

    Every call may raise `sqlite3.Error` when the file can't be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: sqlite3.Connection | None = None
        self._inode: int | None = None

    @property
    def there(self) -> bool:
        """Whether it is open and its path still names the open file. Raises `OSError`."""
        return self._writer is not None and self._path.exists() and self._path.stat().st_ino == self._inode

    def open(self) -> None:
        """Create the file, readable by owner and group only (it names people), or recreate it if it is damaged."""
        self.close()
        try:
            self._writer = self._opened()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            log.error("%s is damaged (%s): made again from the request log", self._path, error)
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            self._writer = self._opened()

    def close(self) -> None:
        if self._writer:
            self._writer.close()
        self._writer = None

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A consistent snapshot of the tally. It does not block writers."""
        with closing(sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)) as db:
            db.execute("BEGIN")
            yield db

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One atomic transaction, by one thread at a time, once the tally is open.

        Raises `sqlite3.OperationalError` at once while another process writes. A crash of the machine may undo the
        last changes, sums and positions alike: those lines are then read again.
        """
        assert self._writer
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield self._writer
        except BaseException:
            self._writer.execute("ROLLBACK")
            raise
        self._writer.execute("COMMIT")

    def _opened(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640))
        db = sqlite3.connect(self._path, timeout=5.0, isolation_level=None, check_same_thread=False)
        try:
            db.executescript(_SCHEMA)
            _bring_up_to_date(db)
        except sqlite3.Error:
            db.close()
            raise
        db.execute("PRAGMA busy_timeout = 0")
        self._inode = self._path.stat().st_ino
        return db


def _bring_up_to_date(db: sqlite3.Connection) -> None:
    """Days counted by an older version have no number of admitted requests."""
    if not any(column[1] == "admitted" for column in db.execute("PRAGMA table_info(days)")):
        db.execute("ALTER TABLE days ADD COLUMN admitted INTEGER")


def add(db: sqlite3.Connection, file: str, sums: Counted) -> None:
    """Add `sums`, which were read from the log file called `file`."""
    db.executemany(_ADD_DAY, ((file, *holder, *_of_day(day)) for holder, day in sums.days.items()))
    db.executemany(_ADD_STEP, ((*what, *_of_step(step)) for what, step in sums.steps.items()))
    db.executemany(_ADD_MISTAKE, ((*alike, *_of_mistake(mistake)) for alike, mistake in sums.mistakes.items()))


def forget(db: sqlite3.Connection, now: float) -> None:
    """Delete expired sums. Read positions never expire, or the files would be counted again.

    Days expire only by both clocks: this host's, and the records', which is Envoy's.
    """
    (seen,) = db.execute("SELECT max(seen) FROM days").fetchone()
    agreed = min(now, seen or 0.0)
    oldest = (datetime.fromtimestamp(agreed, UTC) - timedelta(days=KEPT_DAYS)).date().isoformat()
    db.execute("DELETE FROM days WHERE day < ?", (oldest,))
    db.execute("DELETE FROM steps WHERE start < ?", (now - KEPT_LIVE_S,))
    newest = "SELECT last FROM mistakes ORDER BY last DESC LIMIT 1 OFFSET ?"
    db.execute(f"DELETE FROM mistakes WHERE last < ? OR last <= ({newest})", (now - KEPT_MISTAKES_S, MAX_MISTAKES))
