"""Callers by the clock, whether or not earlier ones were answered: most over HTTP/1.1, some over HTTP/2."""

import asyncio
import json
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

import aiohttp
import httpx2 as httpx

from tests.soak.callers import KINDS, Kind
from tests.soak.ledger import OWN_ERROR, Outcome, broken_json

PATIENCE_S = 60.0
HTTP2_SHARE = 0.1
_STAYS_S = 0.3
_TAIL = 8192  # the last event of Responses repeats the whole answer
_ENDS = (b"[DONE]", b"message_stop", b"response.completed", b"response.incomplete")


@dataclass
class Answer:
    """As far as it has come."""

    status: int = 0
    headers: Mapping[str, str] | None = None
    first: float = 0.0
    head: bytes = b""
    tail: bytes = b""
    error: str = ""

    def took(self, data: bytes) -> None:
        self.first = self.first or time.time()
        if len(self.head) < 65536:
            self.head += data
        self.tail = (self.tail + data)[-_TAIL:]

    def heard(self, kind: Kind) -> str:
        """Its status; `cut` when it is a stream without its end."""
        ends = not kind.streams or self.status != 200 or any(end in self.tail for end in _ENDS)
        return str(self.status) if ends else "cut"

    @property
    def told(self) -> str:
        """What may say why it is not what was wished for."""
        return self.error or (
            self.head[:200].decode(errors="replace").strip() if self.status not in (200, 401, 429) else ""
        )

    def broken(self, kind: Kind) -> str:
        if self.status == 200 and kind.streams:
            starts = not self.head or self.head.startswith((b"data:", b"event:", b":"))
            return "" if starts else f"no event stream: {self.head[:80]!r}"
        if wrong := broken_json(self.head):
            return wrong
        return "" if self.status == 200 or "error" in json.loads(self.head) else f"no error: {self.head[:80]!r}"


Ask = Callable[[int, Answer], Awaitable[None]]


class Load:
    """`rate` requests a second at random moments (a Poisson process), each told to `heard` once it is over.

    `url` may be set at any time. `latencies_ms` are of first bytes of streams and of whole answers else, from the
    moment a request was due; whoever takes them clears them.
    """

    def __init__(self, url: str, rate: float, heard: Callable[[Outcome], None], seed: int = 1) -> None:
        self.url, self._rate, self._heard = url, rate, heard
        self._chance = random.Random(seed)
        self._running: set[asyncio.Task[None]] = set()
        self.asked = 0
        self.latencies_ms: list[float] = []

    @property
    def in_flight(self) -> int:
        return len(self._running)

    async def run(self, over: asyncio.Event) -> None:
        """Until `over`, and then until the last one is answered."""
        kinds, shares = list(KINDS), [kind.share for kind in KINDS]
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session,
            httpx.AsyncClient(http1=False, http2=True, timeout=PATIENCE_S) as client,
        ):
            due = time.time()
            while not over.is_set():
                due += self._chance.expovariate(self._rate)
                await asyncio.sleep(max(0.0, due - time.time()))
                kind = self._chance.choices(kinds, shares)[0]
                ask = self._http2(client, kind) if self._chance.random() < HTTP2_SHARE else self._http1(session, kind)
                self.asked += 1
                task = asyncio.create_task(self._one(self.asked, kind, due, ask))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
            await asyncio.gather(*self._running)

    async def _one(self, number: int, kind: Kind, due: float, ask: Ask) -> None:
        answer, began = Answer(), time.time()
        heard = await _outcome(ask(number, answer), kind, answer)
        ended = time.time()
        broken = answer.broken(kind) if heard.isdigit() else ""
        degraded = bool(answer.headers and answer.headers.get("x-ratelimit-degraded"))
        if heard == "200":
            self.latencies_ms.append(((answer.first if kind.streams else ended) - due) * 1000)
        self._heard(Outcome(number, kind, began, ended, heard, degraded, broken, answer.told))

    def _http1(self, session: aiohttp.ClientSession, kind: Kind) -> Ask:
        async def ask(number: int, answer: Answer) -> None:
            async with session.post(self.url + kind.path, data=kind.payload, headers=_headers(number, kind)) as got:
                answer.status, answer.headers = got.status, got.headers
                await _read(got.content.iter_any(), kind, answer)

        return ask

    def _http2(self, client: httpx.AsyncClient, kind: Kind) -> Ask:
        async def ask(number: int, answer: Answer) -> None:
            url, headers = self.url + kind.path, _headers(number, kind)
            async with client.stream("POST", url, content=kind.payload, headers=headers) as got:
                answer.status, answer.headers = got.status_code, got.headers
                await _read(got.aiter_raw(), kind, answer)

        return ask


class _HungUpError(Exception):
    """The caller leaves in the middle of an answer, as it meant to."""


async def _read(pieces: AsyncIterator[bytes], kind: Kind, answer: Answer) -> None:
    async for piece in pieces:
        answer.took(piece)
        if kind.hangs_up and answer.status == 200:
            await asyncio.sleep(_STAYS_S)
            raise _HungUpError


async def _outcome(asking: Awaitable[None], kind: Kind, answer: Answer) -> str:
    try:
        await asking
    except _HungUpError:
        return "hung up"
    except (TimeoutError, httpx.TimeoutException):
        return "timed out"
    except httpx.LocalProtocolError as error:
        answer.error = repr(error)
        return OWN_ERROR
    except (aiohttp.ClientConnectorError, httpx.ConnectError):
        return "refused"
    except (aiohttp.ClientError, httpx.HTTPError, OSError) as error:
        answer.error = repr(error)
        return "cut" if answer.status else "disconnected"
    return answer.heard(kind)


def _headers(number: int, kind: Kind) -> dict[str, str]:
    return {"authorization": f"Bearer {kind.key}", "content-type": "application/json", "user-agent": f"soak/{number}"}


def percentiles(values: list[float]) -> tuple[float, float]:
    """The median and the 99th percentile."""
    if len(values) < 2:
        return float("nan"), float("nan")
    cuts = statistics.quantiles(values, n=100)
    return cuts[49], cuts[98]
