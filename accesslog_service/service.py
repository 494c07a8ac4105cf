"""ALS (`envoy.service.accesslog.v3`): Envoy streams its access log here, and gets no answer until the stream ends."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from accesslog_service.departure import Departure
from accesslog_service.entry import is_final
from accesslog_service.record import Record
from gatehouse.pb.accesslog_pb2 import HTTPAccessLogEntry
from gatehouse.pb.als_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse
from gatehouse.rpc import ClientStream, Code, Context, Health, Service

Sink = Callable[[Sequence[Record]], None]
ToRecord = Callable[[HTTPAccessLogEntry], Record]


class ForeignStreamError(Exception):
    """The stream is not an HTTP access log; the message says what is wrong with it."""


class Receiver:
    """Hands the records of every stream to `sinks`, in order, before it reads on. Streams end as `departure` says."""

    def __init__(self, sinks: Iterable[Sink], running: Sink | None, to_record: ToRecord, departure: Departure) -> None:
        """`running`, if any, is told of requests that are still under way, by what is known of them so far."""
        self._sinks = tuple(sinks)
        self._running = running
        self._record = to_record
        self._departure = departure

    def service(self, health: Health) -> Service:
        decode, encode = StreamAccessLogsMessage.FromString, StreamAccessLogsResponse.SerializeToString
        method = ClientStream(self._stream_access_logs, decode, encode)
        return Service({"envoy.service.accesslog.v3.AccessLogService": {"StreamAccessLogs": method}}, health)

    async def _stream_access_logs(
        self, messages: AsyncIterator[StreamAccessLogsMessage], context: Context
    ) -> StreamAccessLogsResponse:
        arrived = asyncio.Event()
        try:
            await self._departure.end_of(self._read(messages, arrived), arrived)
        except ForeignStreamError as error:
            await context.abort(Code.INVALID_ARGUMENT, str(error))
        return StreamAccessLogsResponse()

    async def _read(self, messages: AsyncIterator[StreamAccessLogsMessage], arrived: asyncio.Event) -> None:
        identified = False
        async for message in messages:
            identified = identified or message.HasField("identifier")
            _check(message, identified)
            self._hand_on(message.http_logs.log_entry)
            arrived.set()

    def _hand_on(self, entries: Iterable[HTTPAccessLogEntry]) -> None:
        """Entries of streams that still run are no records: they say that a request is alive."""
        ended: list[HTTPAccessLogEntry] = []
        running: list[HTTPAccessLogEntry] = []
        for entry in entries:
            (ended if is_final(entry) else running).append(entry)
        if ended:
            records = [self._record(entry) for entry in ended]
            for sink in self._sinks:
                sink(records)
        if running and self._running:
            self._running([self._record(entry) for entry in running])


def _check(message: StreamAccessLogsMessage, identified: bool) -> None:
    if not identified:
        raise ForeignStreamError("the first message of a stream must carry an identifier")
    if message.WhichOneof("log_entries") != "http_logs":
        raise ForeignStreamError("only HTTP access-log entries are taken: every message must carry http_logs")
