"""The request log: records as JSON lines in `requests_YYYY-MM-DD.log`, written behind the back of who hands them on."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from accesslog_service.record import Record
from gatehouse.files.daily_file import CutShortError

log = logging.getLogger(__name__)

SYNC_EVERY_S = 1.0
"""What a power failure can cost. What is written is safe from the end of the process at once."""

MAX_PENDING_BYTES = 16 * 1024 * 1024
"""About 25,000 lines: two minutes of 200 requests a second while the disk takes nothing."""


Lost = Callable[[str, int], None]
"""Told where so many records were lost."""


class LineFile(Protocol):
    """Where lines go; `gatehouse.files.daily_file.DailyFile` is one. Its calls may block, and raise `OSError`."""

    def append(self, lines: bytes) -> None: ...
    def sync(self) -> None: ...
    def close(self) -> None: ...


class RequestLog:
    """Takes records at once and writes them from a thread, one write for all that came in the meantime.

    Lines are written as they come, brought to the disk (fsync) every `SYNC_EVERY_S` and at the end. While the disk is
    slow, up to `max_pending_bytes` wait in memory. Lines beyond that (`queue`), and lines that the disk refuses
    (`disk`), are dropped and reported to `lost`; Envoy's own log file still has them.
    """

    def __init__(self, file: LineFile, lost: Lost, max_pending_bytes: int = MAX_PENDING_BYTES) -> None:
        self._file = file
        self._lost = lost
        self._max_pending_bytes = max_pending_bytes
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._arrived = asyncio.Event()
        self._closing = False
        self._unsynced = False
        self._failing = False

    def take(self, records: Sequence[Record]) -> None:
        """Hand `records` on. Never waits."""
        taken = 0
        for record in records:
            line = record.line()
            if self._pending_bytes + len(line) > self._max_pending_bytes:
                break
            self._pending.append(line)
            self._pending_bytes += len(line)
            taken += 1
        if taken < len(records):
            self._lost("queue", len(records) - taken)
        self._arrived.set()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Write while the block runs; when it has ended, everything taken is on the disk and the file is closed."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._write_on())
            syncing = tasks.create_task(self._sync_on())
            try:
                yield
            finally:
                syncing.cancel()
                self._closing = True
                self._arrived.set()
        await self._sync()
        try:
            self._file.close()
        except OSError as error:
            self._note_failure(error)

    async def _sync_on(self) -> None:
        while True:
            await asyncio.sleep(SYNC_EVERY_S)
            if self._unsynced:
                await self._sync()

    async def _sync(self) -> None:
        self._unsynced = False
        try:
            await asyncio.to_thread(self._file.sync)
        except OSError as error:
            self._note_failure(error)

    async def _write_on(self) -> None:
        while self._pending or not self._closing:
            await self._arrived.wait()
            self._arrived.clear()
            lines, self._pending = self._pending, []
            if lines:
                await self._write(lines)

    async def _write(self, lines: list[bytes]) -> None:
        joined = b"".join(lines)
        try:
            await asyncio.to_thread(self._file.append, joined)
        except OSError as error:
            self._lost("disk", len(lines) - (error.lines if isinstance(error, CutShortError) else 0))
            self._note_failure(error)
        else:
            self._unsynced, self._failing = True, False
        self._pending_bytes -= len(joined)

    def _note_failure(self, error: OSError) -> None:
        """Once for each time that the disk begins to fail: the log has the same disk."""
        if not self._failing:
            log.error("the request log can't be written, records are lost until it can: %s", error)
        self._failing = True
