"""The model server that every contender stands in front of: it answers at once, and streams by the clock.

    python -m benchmarks.upstream --port 9000

A JSON answer is always the same. A stream has `max_tokens` events, one each `seed` milliseconds, and every event says
when it was sent (CLOCK_MONOTONIC, which all processes of a machine share), so that a client can compute its
transit time. As vLLM does, it sends usage when asked. One process does 20,000 requests a second.
"""

import argparse
import asyncio
import json
import re
import time
from typing import cast

import uvloop

MODEL = "bench"
_ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1764000000,
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello there."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15},
    }
).encode()
_MODELS = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "bench"}]}).encode()


def _whole(body: bytes, kind: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (kind, len(body), body)


_JSON, _LIST, _OK = _whole(_ANSWER), _whole(_MODELS), _whole(b"ok", b"text/plain")
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1764000000,"model":"bench",'
    b'"choices":[{"index":0,"delta":{"content":"t%d;"},"finish_reason":null}]%b}\n\n'
)
_USAGE = b',"usage":{"prompt_tokens":12,"completion_tokens":%d,"total_tokens":%d}'
_LAST = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1764000000,"model":"bench","choices":[]%b}'
    b"\n\n"
)
_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
_STREAMS = re.compile(rb'"stream"\s*:\s*true')


class _Connection(asyncio.Protocol):
    """HTTP/1.1 as gateways speak it to a model server: one request at a time, with a length or in chunks."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._received = b""
        self._streaming: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, _error: Exception | None) -> None:
        if self._streaming:
            self._streaming.cancel()

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        head, blank, rest = self._received.partition(b"\r\n\r\n")
        if not blank:
            return
        length = _LENGTH.search(head)
        if length is not None:
            if len(rest) < int(length[1]):
                return
        elif b"chunked" in head and not rest.endswith(b"0\r\n\r\n"):
            return
        self._received = b""
        self._answer(head, rest)

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET"):
            self._transport.write(_LIST if b"/models" in head[:40] else _OK)
        elif len(body) < 64 * 1024 and _STREAMS.search(body):
            asked = json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])
            self._transport.write(_STREAM)
            options = asked.get("stream_options") or {}
            counted = bool(options.get("include_usage")), bool(options.get("continuous_usage_stats"))
            self._next(1, asked.get("max_tokens") or 16, (asked.get("seed") or 0) / 1000, counted, time.monotonic())
        else:
            self._transport.write(_JSON)

    def _next(self, number: int, last: int, interval_s: float, counted: tuple[bool, bool], due: float) -> None:
        usage = _USAGE % (number, 12 + number)
        event = _EVENT % (time.monotonic_ns(), usage if counted[1] else b"")
        if number == last:
            event += (_LAST % usage if counted[0] else b"") + b"data: [DONE]\n\n"
        chunk = b"%x\r\n%b\r\n" % (len(event), event)
        self._transport.write(chunk + b"0\r\n\r\n" if number == last else chunk)
        if number < last and not self._transport.is_closing():
            loop, due = asyncio.get_running_loop(), due + interval_s
            wait_s = max(0.0, due - time.monotonic())
            self._streaming = loop.call_later(wait_s, self._next, number + 1, last, interval_s, counted, due)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", port, backlog=8192)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="A model server that answers at once.")
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(_serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
