"""Host names that the operators' port accepts: IP addresses, localhost and configured names.

DNS rebinding: a foreign site can point its own name at this machine, and the browser then lets its script read the
port as the same origin. The Host header still carries the foreign name.
"""

import ipaddress
import re

from gatehouse.config.model import Server

_HOST = re.compile(r"(?P<host>\[[^]]*\]|[^:\[\]]+)(:\d+)?")


def is_ours(host: str | None, server: Server) -> bool:
    """Whether `host`, of a request's Host header, names the port of `server`. Browsers always send one."""
    if host is None:
        return True
    found = _HOST.fullmatch(host.strip())
    if found is None:
        return False
    name = found["host"].rstrip(".").lower()
    names = {"localhost", server.metrics_host.lower(), *(each.lower() for each in server.metrics_names)}
    return name in names or _is_address(name.strip("[]"))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
