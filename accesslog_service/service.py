"""ALS (`envoy.service.accesslog.v3`): Envoy streams its access log here, and gets no answer until the stream ends."""

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Protocol

from google.protobuf.message import DecodeError

from accesslog_service.entry import is_final
from accesslog_service.leaving import Leaving
from accesslog_service.record import Record
from gatehouse.contract.failures import GatehouseError
from gatehouse.pb.accesslog_pb2 import HTTPAccessLogEntry
from gatehouse.pb.als_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse
from gatehouse.rpc.service import ClientStream, Code, Context, Health, Methods, Service

log = logging.getLogger(__name__)

MOST_AT_ONCE = 1000
"""Records that sinks are given at a time."""

Sink = Callable[[Sequence[Record]], None]
ToRecord = Callable[[HTTPAccessLogEntry], Record]


class Losses(Protocol):
    """Who counts what came, and what was lost and where; `accesslog_service.sinks.prometheus.RequestMetrics` does."""

    def received(self, count: int) -> None: ...
    def lost(self, where: str, count: int) -> None: ...


class ForeignStreamError(GatehouseError):
    """The stream is not an HTTP access log; the message says what is wrong with it."""


class Receiver:
    """Hands the records of every stream to `sinks`, in order. Streams end as `leaving` says."""

    def __init__(
        self, sinks: Iterable[Sink], running: Sink | None, to_record: ToRecord, leaving: Leaving, losses: Losses
    ) -> None:
        """`running`, if any, is told of requests that are still under way, by what is known of them so far.

        `to_record` may change.
        """
        self._sinks = tuple(sinks)
        self._running = running
        self.to_record = to_record
        self._leaving = leaving
        self._losses = losses
        self._ended: list[Record] = []
        self._under_way: list[Record] = []
        self._handing_on = False

    def service(self, health: Health, more: Methods) -> Service:
        """What the gRPC shell serves, `more` beside the log."""
        method = ClientStream(self._stream_access_logs, self._decode, StreamAccessLogsResponse.SerializeToString)
        return Service({"envoy.service.accesslog.v3.AccessLogService": {"StreamAccessLogs": method}, **more}, health)

    def _decode(self, message: bytes) -> StreamAccessLogsMessage:
        try:
            return StreamAccessLogsMessage.FromString(message)
        except DecodeError:
            raise ForeignStreamError("the message can't be read") from None

    async def _stream_access_logs(
        self, messages: AsyncIterator[StreamAccessLogsMessage], context: Context
    ) -> StreamAccessLogsResponse:
        arrived = asyncio.Event()
        try:
            await self._leaving.end_of(self._read(messages, arrived), arrived)
        except ForeignStreamError as error:
            self._losses.lost("message", 1)
            await context.abort(Code.INVALID_ARGUMENT, str(error))
        return StreamAccessLogsResponse()

    async def _read(self, messages: AsyncIterator[StreamAccessLogsMessage], arrived: asyncio.Event) -> None:
        identified = False
        async for message in messages:
            identified = identified or message.HasField("identifier")
            _check(message, identified)
            self._sort(message.http_logs.log_entry)
            self._hand_on_soon()
            arrived.set()

    def _sort(self, entries: Sequence[HTTPAccessLogEntry]) -> None:
        """Entries of streams that still run are no records: they say that a request is alive."""
        self._losses.received(len(entries))
        for entry in entries:
            try:
                (self._ended if is_final(entry) else self._under_way).append(self.to_record(entry))
            except Exception as error:
                self._lose("entry", 1, error)

    def _hand_on_soon(self) -> None:
        """When all that has come by now is read: sinks do much at once in little more time than one."""
        if len(self._ended) >= MOST_AT_ONCE:
            self._hand_on()
        if not self._handing_on:
            self._handing_on = True
            asyncio.get_running_loop().call_soon(self._hand_on)

    def _hand_on(self) -> None:
        self._handing_on = False
        ended, self._ended = self._ended, []
        under_way, self._under_way = self._under_way, []
        if ended:
            for sink in self._sinks:
                self._fill(sink, ended)
        if under_way and self._running:
            self._fill(self._running, under_way)

    def _fill(self, sink: Sink, records: Sequence[Record]) -> None:
        """A sink that fails keeps nothing from the others."""
        try:
            sink(records)
        except Exception as error:
            self._lose("sink", len(records), error)

    def _lose(self, where: str, count: int, error: Exception) -> None:
        """The text of an error may quote what a client sent, so it is not logged."""
        frame = traceback.extract_tb(error.__traceback__)[-1]
        log.error("%d entries lost: %s in %s, line %s", count, type(error).__name__, frame.name, frame.lineno)
        self._losses.lost(where, count)


def _check(message: StreamAccessLogsMessage, identified: bool) -> None:
    if not identified:
        raise ForeignStreamError("the first message of a stream must carry an identifier")
    if message.WhichOneof("log_entries") != "http_logs":
        raise ForeignStreamError("only HTTP access-log entries are taken: every message must carry http_logs")
