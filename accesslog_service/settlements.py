"""Tells ratelimit_service how requests ended, and that they still run: settlements, over `gatehouse.v1.Settlements`.

A batch is sent again, to the next worker, until one acknowledges it: settling twice is the same as settling once. What
can't be kept any longer is counted; its reservations then stay charged and its leases lapse.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

from accesslog_service.record import Record
from accesslog_service.turns import Turns
from gatehouse.contract import metering
from gatehouse.pb.settlement_pb2 import Settlement, SettleRequest
from gatehouse.rpc.http2.client import CallFailedError, Client

log = logging.getLogger(__name__)

METHOD = "/gatehouse.v1.Settlements/Settle"
MAX_PENDING = 100_000
BATCH = 500
CALL_TIMEOUT_S = 1.0
LAST_CALLS_S = 3.0
"""How long a receiver that stops goes on trying."""
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.02, 1.0


def settlement(record: Record, *, running: bool = False) -> Settlement | None:
    """What the limiter must know of a request; None when it was never asked about it, or refused it.

    A request that failed is charged what it produced, if anything. Of one that was cut off without a count, the guess
    of its admission stays; one that was answered to the end without a count is charged the guess, or by the size of its
    answer if that is more.
    """
    if not metering.admitted(record):
        return None
    counted, complete = metering.counted(record), metering.complete(record)
    return Settlement(
        request_id=record.request_id,
        kind=Settlement.RENEW if running else Settlement.DONE,
        user=record.user_id or "",
        team=record.team or "",
        tier=record.tier or "",
        key_id=record.key_id or "",
        model=record.model or "",
        input_tokens=None if metering.lacks_prompt(record) or not counted else record.prompt_tokens or 0,
        output_tokens=record.completion_tokens,
        cached_tokens=record.cached_tokens or 0,
        counted=counted,
        status=record.status,
        key_limits=record.key_limits or "",
        key_family=record.key_family or "",
        asks=record.asks or "",
        complete=complete,
        answer_bytes=record.bytes_out if complete and not counted else 0,
    )


class Limiter:
    """A sink of records. `sockets` are those of the ratelimit workers, the first `deciding` of which decide while all
    is well: batches go round these, so that each learns how long answers are. `lost` is told how many were given up.

    Any worker will do, but for the end of a request that one has admitted without Redis: it alone knows of that lease.
    Unless `everyone` is to be settled, which may change, only those are whose key brings limits of its own: any of them
    may need it.
    """

    def __init__(
        self, sockets: Sequence[Path], lost: Callable[[int], None], *, deciding: int = 1, everyone: bool = True
    ) -> None:
        self._sockets = sockets
        self._deciding = deciding
        self._lost = lost
        self.everyone = everyone
        self._pending: deque[tuple[int | None, Settlement]] = deque()
        self._batch: list[tuple[int | None, Settlement]] = []
        self._arrived = asyncio.Event()
        self._closing = False

    def ended(self, records: Sequence[Record]) -> None:
        """These requests have ended. Never waits."""
        self._take((record.leased_by, settlement(record)) for record in records if self.everyone or record.key_limits)

    def running(self, records: Sequence[Record]) -> None:
        """These requests still run. Never waits."""
        mine = (record for record in records if self.everyone or record.key_limits)
        self._take((record.leased_by, settlement(record, running=True)) for record in mine)

    def _take(self, settlements: Iterable[tuple[int | None, Settlement | None]]) -> None:
        self._pending.extend((worker, entry) for worker, entry in settlements if entry is not None)
        if (excess := len(self._pending) - MAX_PENDING) > 0:
            for _ in range(excess):
                self._pending.popleft()
            self._lost(excess)
        self._arrived.set()

    @asynccontextmanager
    async def telling(self) -> AsyncIterator[None]:
        """Send while the block runs; when it has ended, everything taken was acknowledged or counted as lost."""
        task = asyncio.create_task(self._tell_on())
        try:
            yield
        finally:
            self._closing = True
            self._arrived.set()
            await asyncio.wait({task}, timeout=LAST_CALLS_S)
            task.cancel()
            if left := len(self._batch) + len(self._pending):
                self._lost(left)

    async def _tell_on(self) -> None:
        clients = [Client(socket) for socket in self._sockets]
        turns = Turns(clients, self._deciding)
        try:
            while self._pending or not self._closing:
                await self._arrived.wait()
                self._arrived.clear()
                while self._pending:
                    self._batch = [self._pending.popleft() for _ in range(min(BATCH, len(self._pending)))]
                    for worker in dict.fromkeys(worker for worker, _ in self._batch):
                        first = turns if worker is None else Turns(clients[worker:] + clients[:worker], 1)
                        entries = [entry for whose, entry in self._batch if whose == worker]
                        await _until_told(first, SettleRequest(settlements=entries).SerializeToString())
                    self._batch = []
        finally:
            for client in clients:
                client.close()


async def _until_told(turns: Turns[Client], request: bytes) -> None:
    """Try one worker after the other, with growing pauses once all have failed."""
    pause_s = _FIRST_PAUSE_S
    for attempt in count(1):
        worker = turns.next()
        try:
            await worker.call(METHOD, request, CALL_TIMEOUT_S)
        except CallFailedError as error:
            turns.failed(worker)
            if attempt == len(turns):
                log.warning("no ratelimit worker takes settlements: %s; trying on", error)
            if attempt % len(turns) == 0:
                await asyncio.sleep(pause_s)
                pause_s = min(_MAX_PAUSE_S, pause_s * 2)
        else:
            return
