"""A slow network: a TCP proxy in its own thread, which delays data from the server."""

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

CHUNK = 64 * 1024


def jitter(most_s: float) -> Callable[[], float]:
    """Anything from 0 to `most_s`, evenly spread."""
    return lambda: random.uniform(0, most_s)


@contextmanager
def late(port: int, delay_s: Callable[[], float]) -> Iterator[int]:
    """The port of a proxy for `port` on this machine. What the server says arrives in its order, each piece of it
    `delay_s()` late."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    ports: list[int] = []

    async def serve() -> None:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(_passed(reader, to_server), _held_back(from_server, writer, delay_s))

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()

    def run() -> None:
        loop.create_task(serve())
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait(5)
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)


async def _passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
    writer.close()


async def _held_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: Callable[[], float]) -> None:
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            due, data = await pieces.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                break
            writer.write(data)
        writer.close()

    delivering = asyncio.create_task(deliver())
    with suppress(OSError):
        while data := await reader.read(CHUNK):
            pieces.put_nowait((loop.time() + delay_s(), data))
    pieces.put_nowait((loop.time(), b""))
    await delivering
