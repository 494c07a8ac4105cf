"""The shell that every gRPC service runs in: bind, health, drain.

A service gives its methods as functions over bytes and protobuf messages; the shell knows nothing of what they decide,
and they nothing of what carries them: `http2` on the unix sockets that Envoy calls, grpcio on TCP.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatehouse.rpc.http2 import unix
from gatehouse.rpc.service import Service

if TYPE_CHECKING:
    from gatehouse.rpc.tcp import Option, Tcp

log = logging.getLogger(__name__)


async def serve(
    service: Service, address: "Path | Tcp", stop: asyncio.Event, grace_s: float, options: "Sequence[Option]" = ()
) -> None:
    """Answer on `address`, a path being a unix socket, until `stop` is set; then finish for up to `grace_s` seconds.

    Health says NOT_SERVING while draining. The socket is gone when this returns. `options` are grpcio's, for TCP.
    Raises `OSError` when it can't bind.
    """
    listener = _listener(service, address, options)
    try:
        await listener.bind(address)
    except OSError as error:
        raise OSError(f"can't listen on {address}: {error}") from None
    service.health.serving = True
    log.info("serving on %s", address)
    try:
        await stop.wait()
    finally:
        service.health.serving = False
        await listener.close(grace_s)
        if isinstance(address, Path):
            address.unlink(missing_ok=True)
        log.info("stopped")


def _listener(service: Service, address: "Path | Tcp", options: "Sequence[Option]") -> Any:
    if isinstance(address, Path):
        return unix.Listener(service.by_path())
    from gatehouse.rpc import tcp  # who only has unix sockets need not load grpcio

    return tcp.Listener(service.by_path(), options)
