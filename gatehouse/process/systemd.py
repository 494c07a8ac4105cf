"""What systemd is told of a running gateway: that it is ready, that it lives, that it stops (sd_notify(3)).

Does nothing where systemd does not ask for it by `NOTIFY_SOCKET`.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger(__name__)


async def report(ready: asyncio.Event, stop: asyncio.Event, environment: Mapping[str, str] = os.environ) -> None:
    """READY=1 once `ready` is set, then WATCHDOG=1 twice in the time that systemd waits; STOPPING=1 at `stop`."""
    address = environment.get("NOTIFY_SOCKET")
    if not address:
        return
    await ready.wait()
    _tell(address, "READY=1")
    watching = asyncio.create_task(_live(address, int(environment.get("WATCHDOG_USEC", "0")) / 2_000_000))
    try:
        await stop.wait()
        _tell(address, "STOPPING=1")
        await watching
    finally:
        watching.cancel()


async def _live(address: str, pause_s: float) -> None:
    """The event loop says so: if it hangs, nobody does."""
    while pause_s:
        _tell(address, "WATCHDOG=1")
        await asyncio.sleep(pause_s)


def _tell(address: str, state: str) -> None:
    """A datagram; `@` stands for the first byte of an abstract address. Nobody ends because systemd can't be told."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.connect("\0" + address[1:] if address.startswith("@") else address)
            out.send(state.encode())
    except OSError as error:
        log.warning("systemd can't be told %s: %s", state, error)
