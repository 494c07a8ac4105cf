"""Runs a gRPC service: bind, health, drain.

A service provides its methods as functions of bytes and protobuf messages, and does not depend on the transport:
`http2` on the unix sockets that Envoy calls, grpcio on TCP.
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
    """Serve on `address` (a path is a unix socket) until `stop` is set, then let calls finish for up to `grace_s`.

    Health reports NOT_SERVING while draining. The socket is removed on return. `options` are grpcio's, for TCP. Raises
    `OSError` if it can't bind.
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
    from gatehouse.rpc import tcp  # with unix sockets only, grpcio is not loaded

    return tcp.Listener(service.by_path(), options)
