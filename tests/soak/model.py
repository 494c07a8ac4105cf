"""The model server of a soak, a process of its own: the demo model server, and a line in a file for each request.

    python -m tests.soak.model --port 9000 --arrivals arrivals.log

A line is written before the request is looked at, so no kill loses one: `NUMBER REQUEST_ID`, where the number is the
caller's (`User-Agent: soak/NUMBER`). The model `torrent` sends 8 MiB as fast as they are taken; where `n` is 2, which
the demo model server refuses, both choices get some events.
"""

import argparse
import asyncio
import os
import re
from collections.abc import Iterable
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from demo_model_server.app import Settings, create_app

MODEL, TORRENT = "soak", "torrent"
DELAY_S = 0.02
_NUMBER = re.compile(r"soak/(\d+)")
_PIECE = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * 4000)
_PIECES = 8 * 2**20 // len(_PIECE)
_EVENTS = 16
_CHOICE = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":%d,"delta":{"content":"x"}}]}\n\n'
_END = (
    b'data: {"id":"c","object":"chat.completion.chunk","choices":[],'
    b'"usage":{"prompt_tokens":5,"completion_tokens":32,"total_tokens":37}}\n\ndata: [DONE]\n\n'
)


def app(arrivals: Path) -> web.Application:
    """The server, which appends to `arrivals`."""
    out = os.open(arrivals, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    @web.middleware
    async def noted(request: web.Request, handler: Handler) -> web.StreamResponse:
        if number := _NUMBER.fullmatch(request.headers.get("user-agent", "")):
            os.write(out, f"{number[1]} {request.headers.get('x-request-id')}\n".encode())
        body = await request.read()
        if b'"torrent"' in body:
            return await _stream(request, [_PIECE] * _PIECES, 0)
        if b'"n": 2' in body:
            return await _stream(request, [_CHOICE % (i % 2) for i in range(2 * _EVENTS)] + [_END], DELAY_S / 2)
        return await handler(request)

    served = create_app(Settings((MODEL, TORRENT), strict=True, delay_s=DELAY_S))
    served.middlewares.insert(0, noted)
    return served


async def _stream(request: web.Request, events: Iterable[bytes], delay_s: float) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for event in events:
        await response.write(event)
        await asyncio.sleep(delay_s)
    return response


def main() -> None:
    parser = argparse.ArgumentParser(description="A model server that notes what arrives.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--arrivals", type=Path, required=True)
    options = parser.parse_args()
    web.run_app(
        app(options.arrivals),
        host="127.0.0.1",
        port=options.port,
        access_log=None,
        print=None,
        handler_cancellation=True,
        reuse_address=True,
        shutdown_timeout=1,
    )


if __name__ == "__main__":
    main()
