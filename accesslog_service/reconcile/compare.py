"""The comparison: take as many of Envoy's lines as memory allows, cross out what the request log knows, restore others.

Safe while the gateway runs, and to repeat: Envoy's lines are read first and the request log after, and what ended a
moment ago is left alone, for it may only be late.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from itertools import groupby, islice
from pathlib import Path
from typing import Protocol

from accesslog_service.reconcile.envoy_line import UnreadableLineError, entry_of
from accesslog_service.reconcile.envoy_log import Account, Unreadable, accounts, files
from accesslog_service.reconcile.request_log import known
from accesslog_service.record import Record
from gatehouse.pb.accesslog_pb2 import HTTPAccessLogEntry

AT_ONCE = 1_000_000
"""Requests whose identities are in memory at a time: about 100 MB."""
RESTORE_AT_ONCE = 500
SHOW_EVERY = 20_000
"""Lines from one word of progress to the next."""
LATE = timedelta(seconds=30)
"""Envoy writes its file once a second, and a receiver whose disk is slow may be behind."""


class Days(Protocol):
    """The request log to restore to; `gatehouse.files.daily_file.DailyFile` is one."""

    def append(self, lines: bytes, now: datetime | None = None) -> None: ...
    def sync(self) -> None: ...


@dataclass(slots=True)
class Report:
    """What a comparison found. `settled` of those restored are known to the limiter; `untold` could not be told."""

    compared: int = 0
    restored: int = 0
    left_as_late: int = 0
    unreadable: int = 0
    settled: int = 0
    untold: int = 0
    restored_by_day: dict[str, int] = field(default_factory=dict)

    def restore(self, day: str, count: int) -> None:
        self.restored += count
        self.restored_by_day[day] = self.restored_by_day.get(day, 0) + count


@dataclass(slots=True)
class _Part:
    """Lines of a file, from byte `start` to `stop`: whose requests nobody has seen in the request log yet."""

    start: int
    stop: int
    missing: set[bytes] = field(default_factory=set)
    days: set[date] = field(default_factory=set)

    def request_log_days(self) -> list[str]:
        """A record is written on the day its request ended, or, just before midnight, on the next."""
        return sorted({str(day + timedelta(days=later)) for day in self.days for later in (0, 1)})


@dataclass(frozen=True, slots=True)
class _Shares:
    """How far it is, from how far a file is read; compressed files are longer than they look."""

    progress: Callable[[float], None]
    before: int
    total: int

    def read(self, stop: int) -> None:
        self.progress(min(1.0, (self.before + stop) / max(1, self.total)))


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """How to compare. `tell` settles restored requests with the limiter, and says how many it could and could not."""

    directory: Path
    request_log: Days
    to_record: Callable[[HTTPAccessLogEntry], Record]
    tell: Callable[[Sequence[Record]], tuple[int, int]]
    progress: Callable[[float], None]
    since: date | None = None
    at_once: int = AT_ONCE

    def run(self, now: datetime) -> Report:
        """Compare all that ended before `now`, but for the last moments. Raises `OSError`."""
        report, paths = Report(), files(self.directory)
        sizes = [path.stat().st_size for path in paths]
        for number, path in enumerate(paths):
            read = _Shares(self.progress, sum(sizes[:number]), sum(sizes)).read
            for part in self._parts(path, now - LATE, report, read):
                for day in part.request_log_days():
                    part.missing.difference_update(known(self.directory, day))
                self._restore(path, part, report)
        self.request_log.sync()
        return report

    def _parts(self, path: Path, before: datetime, report: Report, read: Callable[[int], None]) -> Iterator[_Part]:
        """The lines of a file, so many at a time; `read` hears how far it is read."""
        part = _Part(0, 0)
        for number, account in enumerate(accounts(path), 1):
            part.stop = account.stop
            if number % SHOW_EVERY == 0:
                read(part.stop)
            if isinstance(account, Unreadable):
                report.unreadable += 1
            elif account.ended >= before:
                report.left_as_late += 1
            elif self.since is None or account.ended.date() >= self.since:
                report.compared += 1
                part.missing.add(account.identity)
                part.days.add(account.ended.date())
            if len(part.missing) == self.at_once:
                yield part
                part = _Part(part.stop, part.stop)
        yield part
        read(part.stop)

    def _restore(self, path: Path, part: _Part, report: Report) -> None:
        lacking = self._lacking(path, part, report)
        while batch := list(islice(lacking, RESTORE_AT_ONCE)):
            settled, untold = self.tell([record for _, record in batch])
            report.settled += settled
            report.untold += untold
            for day, records in groupby(batch, key=lambda each: each[0].date()):
                lines = [(ended, record.line()) for ended, record in records]
                self.request_log.append(b"".join(line for _, line in lines), lines[0][0])
                report.restore(str(day), len(lines))

    def _lacking(self, path: Path, part: _Part, report: Report) -> Iterator[tuple[datetime, Record]]:
        """The records that are missing, and when their requests ended. The limiter hears of them before they are
        written: who is interrupted in between tells it again, which is harmless.
        """
        if not part.missing:
            return
        for account in accounts(path, part.start):
            if isinstance(account, Account) and account.identity in part.missing:
                part.missing.discard(account.identity)
                try:
                    yield account.ended, self.to_record(entry_of(account.line))
                except UnreadableLineError:
                    report.unreadable += 1
            if account.stop >= part.stop:
                return
