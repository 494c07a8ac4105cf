"""Who the operators' port answers: whoever asks for it by an address, as localhost, or by a name that is configured.

A page of another site can have its own name lead to this machine, and its script would then read what the port shows,
for a browser takes both for one site (DNS rebinding). The name it asked for gives it away.
"""

import ipaddress
import re

from gatehouse.config.model import Server

_HOST = re.compile(r"(?P<host>\[[^]]*\]|[^:\[\]]+)(:\d+)?")


def is_ours(host: str | None, server: Server) -> bool:
    """Whether `host`, of a request's Host header, names the port of `server`. Without one it is no browser."""
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
