"""Notifies systemd that the gateway is ready, alive or stopping (sd_notify(3)).

Does nothing without `NOTIFY_SOCKET`.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger(__name__)


async def report(ready: asyncio.Event, stop: asyncio.Event, environment: Mapping[str, str] = os.environ) -> None:
    """Send READY=1 once `ready` is set, then WATCHDOG=1 twice per watchdog period, and STOPPING=1 at `stop`."""
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
    """Sent by the event loop, so a loop that hangs sends none."""
    while pause_s:
        _tell(address, "WATCHDOG=1")
        await asyncio.sleep(pause_s)


def _tell(address: str, state: str) -> None:
    """Send a datagram; `@` stands for the first byte of an abstract address. Failures are ignored."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.connect("\0" + address[1:] if address.startswith("@") else address)
            out.send(state.encode())
    except OSError as error:
        log.warning("systemd can't be told %s: %s", state, error)
