"""What goes wrong with a request to the fake vLLM, and how a stream is written when it does."""

import asyncio
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from aiohttp import web

FOREVER = math.inf  # until the client goes away or the server stops
SPLIT_GAP_S = 0.002  # long enough for two pieces to be read apart
DIED = web.RequestKey("died", bool)  # on a request whose connection the script closed


@dataclass(frozen=True, slots=True)
class Script:
    """What goes wrong with a request. The default: nothing. Counts are server-sent events, times are seconds."""

    headers_after_s: float = 0.0
    die_before_headers: bool = False
    status: int | None = None  # answer this, with `headers` and `body`, in place of the model's answer
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    event_delay_s: float = 0.0
    stall_after: int | None = None  # after this many events, send nothing for `stall_for_s`
    stall_for_s: float = FOREVER
    die_after: int | None = None  # after this many events, close the connection as a killed process does
    pieces: int = 1  # the writes an event is split into
    crlf: bool = False  # end lines with CRLF
    big_event: int = 0  # bytes added to the event at index `big_event_at`
    big_event_at: int = 1

    def shaped(self, events: Iterator[bytes]) -> Iterator[bytes]:
        """The events as this script has them written."""
        for index, event in enumerate(events):
            shaped = _padded(event, self.big_event) if index == self.big_event_at and self.big_event else event
            yield shaped.replace(b"\n", b"\r\n") if self.crlf else shaped

    def split(self, event: bytes) -> list[bytes]:
        """An event as the pieces that are written one by one."""
        size = max(1, math.ceil(len(event) / self.pieces))
        return [event[start : start + size] for start in range(0, len(event), size)]

    async def play(self, request: web.Request, response: web.StreamResponse, events: Iterator[bytes]) -> None:
        """Write the events to a response whose headers are sent; the part that the script cuts off is not written."""
        await self._interrupt(request, 0)
        for sent, event in enumerate(self.shaped(events), start=1):
            await asyncio.sleep(self.event_delay_s)
            await self._write(response, event)
            await self._interrupt(request, sent)

    async def _write(self, response: web.StreamResponse, event: bytes) -> None:
        for number, piece in enumerate(self.split(event)):
            if number:
                await asyncio.sleep(SPLIT_GAP_S)
            await response.write(piece)

    async def _interrupt(self, request: web.Request, sent: int) -> None:
        if sent == self.stall_after:
            await asyncio.sleep(self.stall_for_s)
        if sent == self.die_after:
            await die(request)


async def die(request: web.Request) -> None:
    """Close the connection of a request, without the end of its answer. Never returns: the handler gets cancelled."""
    request[DIED] = True
    if request.transport is not None:
        request.transport.close()
    await asyncio.sleep(FOREVER)


def _padded(event: bytes, size: int) -> bytes:
    """The event with a member of `size` bytes in front of its JSON, so that the relevant members come after it."""
    return event.replace(b"{", b'{"padding":"' + b"x" * size + b'",', 1)
