"""What Envoy counts itself, as it stands at the moment of a scrape."""

import json
from pathlib import Path

from aiohttp import ClientError, ClientSession, ClientTimeout, UnixConnector

TIMEOUT = ClientTimeout(total=1.0)
QUERY = {
    "filter": r"^cluster\.model_.*\.upstream_rq_active$|^access_logs\.grpc_access_log\.logs_(written|dropped)$",
    "format": "json",
}

Stats = dict[str, float]


async def read(admin_socket: Path) -> Stats:
    """Ask the Envoy behind `admin_socket`; where there is none, it counts nothing."""
    try:
        async with (
            ClientSession(connector=UnixConnector(str(admin_socket)), timeout=TIMEOUT) as session,
            session.get("http://envoy/stats", params=QUERY) as response,
        ):
            return parsed(await response.read())
    except (ClientError, TimeoutError, OSError):
        return {}


def parsed(answer: bytes) -> Stats:
    """Envoy's answer to `/stats?format=json`; one that can't be read says nothing."""
    try:
        return {
            stat["name"]: float(stat["value"]) for stat in json.loads(answer)["stats"] if isinstance(stat["name"], str)
        }
    except (ValueError, KeyError, TypeError):
        return {}
