"""A gateway's URL, and whether its ports are free."""

import logging
import socket
from pathlib import Path
from urllib.parse import urlsplit

from gatehouse.config.model import Config, Server
from gatehouse.contract.failures import GatehouseError
from gatehouse.gateway.handover import CannotReplaceError, place

log = logging.getLogger(__name__)


class PortInUseError(GatehouseError):
    """Another program listens on a port of the gateway."""


def local_url(config: Config) -> str:
    """The URL of a gateway with `config`, for clients on its own machine."""
    host = config.server.host
    shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"{'https' if config.server.tls else 'http'}://{shown}:{config.server.port}"


def check_ports(config: Config) -> None:
    """Raises `PortInUseError` for the first port that is in use."""
    wanted = [(config.server.host, config.server.port, "port")]
    if config.server.metrics_port:
        wanted.append((config.server.metrics_host, config.server.metrics_port, "metrics_port"))
    for host, port, field in wanted:
        if reason := why_not_listening(host, port):
            message = f"can't listen on {host}:{port}: {reason}"
            hint = f"set server.{field} or GATEHOUSE_SERVER__{field.upper()}"
            at = handover_place(config.server) if field == "port" else None
            own = ", or take over: up --replace" if at and at.exists() else ""
            raise PortInUseError(f"{message}; {hint}{own}")


def handover_place(server: Server) -> Path | None:
    """The socket by which another gateway takes over from this one; None if there can't be one."""
    try:
        return place(server)
    except CannotReplaceError as error:
        log.warning("no gateway can take over from another: %s", error)
        return None


def why_not_listening(host: str, port: int) -> str | None:
    """Why this process can't listen there; None if it can."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def reachable(url: str) -> bool:
    """Whether the host and port of `url` accept connections."""
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)), 1).close()
    except OSError:
        return False
    return True
