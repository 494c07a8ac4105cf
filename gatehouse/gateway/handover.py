"""One gateway takes over from another at the same address: no connection is refused, no stream is cut.

Envoy's hot restart passes on the listening sockets, with the connections queued in them. The two supervisors
coordinate it over a unix socket named after the address:

1. The new one connects and reads the generation of the running Envoy, as a line of JSON.
2. Once its own Envoy answers, it sends `taken`. If it disconnects first, nothing changes.
3. The old one runs until its last request has ended, and closes the connection when its Envoy has exited.
"""

import asyncio
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

from gatehouse.config.model import Server
from gatehouse.contract.failures import GatehouseError
from gatehouse.gateway.generation import Generation
from gatehouse.gateway.socket_dir import NoPrivateDirectoryError, private_directory

log = logging.getLogger(__name__)

ANSWER_S = 10.0
AGAIN_S = 0.5
_TAKEN = b"taken\n"


class CannotReplaceError(GatehouseError):
    """No other gateway can take over from the running one."""


def place(server: Server) -> Path:
    """The handover socket of the gateway at the address of `server`. Raises `CannotReplaceError` if there is no private
    directory for it."""
    try:
        return private_directory() / f"{server.host}-{server.port}"
    except NoPrivateDirectoryError as error:
        raise CannotReplaceError(str(error)) from None


class Succession:
    """A running gateway's side of the handover; `taken` is set when another gateway has taken over.

    `prepare` is awaited when another gateway connects; it returns the running generation, or None for "not now".
    """

    def __init__(self, prepare: Callable[[], Awaitable[Generation | None]]) -> None:
        self.taken = asyncio.Event()
        self._prepare = prepare
        self._one_by_one = asyncio.Lock()
        self._over = asyncio.Event()

    @asynccontextmanager
    async def offered(self, at: Path | None) -> AsyncIterator[None]:
        """Listen at `at` (None: don't) while the block runs; its end tells the successor that our Envoy has exited."""
        if at is None:
            yield
            return
        fresh = at.with_suffix(f".{os.getpid()}")
        fresh.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._meet, fresh)
        inode = fresh.stat().st_ino
        fresh.rename(at)  # replaces the socket of a predecessor, or of a killed gateway
        try:
            yield
        finally:
            self._over.set()
            server.close()
            _remove(at, inode)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with self._one_by_one:
                generation = None if self.taken.is_set() else await self._prepare()
                writer.write(json.dumps(asdict(generation) if generation else None).encode() + b"\n")
                await writer.drain()
                if await reader.readline() != _TAKEN:
                    return
                self.taken.set()
            await self._over.wait()
        except (OSError, ValueError) as error:
            log.warning("a handover failed: %s", error)
        finally:
            writer.close()


def _remove(at: Path, inode: int) -> None:
    """Remove our socket, unless a successor has replaced it."""
    if at.exists() and at.stat().st_ino == inode:
        at.unlink()


class Predecessor:
    """The gateway to take over from. `following`: the generation of our own Envoy."""

    def __init__(self, before: Generation, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.following = before.next()
        self.gone = asyncio.Event()
        self._before = before
        self._reader = reader
        self._writer = writer
        self._grave: socket.socket | None = None

    async def release(self) -> None:
        """Tell the old gateway that our Envoy answers: it may finish. Raises `OSError`."""
        self._writer.write(_TAKEN)
        await self._writer.drain()

    async def outlive(self) -> None:
        """Return once its Envoy has ended and a stand-in socket receives our Envoy's last message to it."""
        await self._reader.read()
        self._grave = self._before.stand_in()
        self.gone.set()

    def close(self) -> None:
        """Disconnect, whether or not we have taken over."""
        self._writer.close()
        if self._grave:
            self._grave.close()


async def predecessor(at: Path) -> Predecessor | None:
    """The gateway that listens at `at`, or None. Waits while that gateway is itself still taking over.

    Raises `CannotReplaceError` if it does not answer.
    """
    while True:
        try:
            reader, writer = await asyncio.open_unix_connection(at)
        except (FileNotFoundError, ConnectionRefusedError):  # none, or left by a killed gateway
            return None
        try:
            found = json.loads(await asyncio.wait_for(reader.readline(), ANSWER_S))
        except (OSError, ValueError, TimeoutError):
            writer.close()
            raise CannotReplaceError(f"the running gateway does not answer at {at}") from None
        if found:
            return Predecessor(Generation(**found), reader, writer)
        writer.close()
        await asyncio.sleep(AGAIN_S)
