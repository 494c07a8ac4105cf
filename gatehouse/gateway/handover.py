"""One gateway takes over from another at the same address: no connection is refused, no stream is cut.

Envoy's hot restart passes on the listening sockets, with the connections queued in them. The two supervisors coordinate
it over a unix socket that is named after the address:

1. The new one connects and reads, as a line of JSON, the generation that its Envoy must follow.
2. Once that Envoy answers, it sends `taken`. If it disconnects first, nothing changes.
3. The old one runs until its last request has ended; the connection closes when its Envoy has ended.
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
    """The running gateway can't be replaced."""


def place(server: Server) -> Path:
    """The handover socket of a gateway at the address of `server`. Raises `CannotReplaceError`: no safe place."""
    try:
        return private_directory() / f"{server.host}-{server.port}"
    except NoPrivateDirectoryError as error:
        raise CannotReplaceError(str(error)) from None


class Succession:
    """The offer of a running gateway to its successor; `taken` is set when that has taken over.

    `prepare` is awaited when one comes, and tells the generation that runs; None: not now.
    """

    def __init__(self, prepare: Callable[[], Awaitable[Generation | None]]) -> None:
        self.taken = asyncio.Event()
        self._prepare = prepare
        self._one_by_one = asyncio.Lock()
        self._over = asyncio.Event()

    @asynccontextmanager
    async def offered(self, at: Path | None) -> AsyncIterator[None]:
        """Offer it while the block runs; its end tells who has taken over that nothing is left here. None: nowhere."""
        if at is None:
            yield
            return
        fresh = at.with_suffix(f".{os.getpid()}")
        fresh.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._meet, fresh)
        inode = fresh.stat().st_ino
        fresh.rename(at)  # whoever it was before has been taken over from, or is no more
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
            log.warning("a hand-over failed: %s", error)
        finally:
            writer.close()


def _remove(at: Path, inode: int) -> None:
    """Unless it is a successor's by now."""
    if at.exists() and at.stat().st_ino == inode:
        at.unlink()


class Predecessor:
    """The gateway to take over from. `following`: the generation that our Envoy is to be."""

    def __init__(self, before: Generation, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.following = before.next()
        self.gone = asyncio.Event()
        self._before = before
        self._reader = reader
        self._writer = writer
        self._grave: socket.socket | None = None

    async def release(self) -> None:
        """Our Envoy answers: let the old one finish. Raises `OSError`."""
        self._writer.write(_TAKEN)
        await self._writer.drain()

    async def outlive(self) -> None:
        """Return once its Envoy has ended; somebody is then there for what ours has to tell it."""
        await self._reader.read()
        self._grave = self._before.stand_in()
        self.gone.set()

    def close(self) -> None:
        """Let go of it, be it taken over from or not."""
        self._writer.close()
        if self._grave:
            self._grave.close()


async def predecessor(at: Path) -> Predecessor | None:
    """The gateway that is spoken to at `at`; None: there is none. Waits while it is itself still taking over.

    Raises `CannotReplaceError` when it does not answer.
    """
    while True:
        try:
            reader, writer = await asyncio.open_unix_connection(at)
        except (FileNotFoundError, ConnectionRefusedError):  # never there, or left by one that was killed
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
