"""`api_requests_in_flight{model}`: requests at the model servers, as Envoy counts them at the moment of the scrape."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from aiohttp import ClientError, ClientSession, ClientTimeout, UnixConnector
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

TIMEOUT = ClientTimeout(total=1.0)
QUERY = {"filter": r"^cluster\.model_.*\.upstream_rq_active$", "format": "json"}
_NAME = re.compile(r"cluster\.model_(.*)\.upstream_rq_active")


def requests_by_model(stats: bytes, models: Iterable[str]) -> dict[str, float]:
    """Envoy's answer to `/stats?format=json` -> running requests by model.

    The clusters are called `model:<name>`. Envoy writes `_` for `:` in the names of statistics, so a name is given its
    colons back by way of `models`, the names that the configuration knows. An answer that can't be read says nothing.
    """
    written = {name.replace(":", "_"): name for name in models}
    try:
        found = [(_NAME.fullmatch(stat["name"]), float(stat["value"])) for stat in json.loads(stats)["stats"]]
    except (ValueError, KeyError, TypeError):
        return {}
    return {written.get(match[1], match[1]): value for match, value in found if match}


async def read(admin_socket: Path, models: Iterable[str]) -> dict[str, float]:
    """Ask the Envoy behind `admin_socket`; where there is none, nothing runs."""
    try:
        async with (
            ClientSession(connector=UnixConnector(str(admin_socket)), timeout=TIMEOUT) as session,
            session.get("http://envoy/stats", params=QUERY) as response,
        ):
            return requests_by_model(await response.read(), models)
    except (ClientError, TimeoutError, OSError):
        return {}


def exposition(requests: Mapping[str, float]) -> bytes:
    """In Prometheus' text format; nothing at all for no model."""
    if not requests:
        return b""
    registry = CollectorRegistry()
    registry.register(_InFlight(requests))
    return generate_latest(registry)


class _InFlight(Collector):
    def __init__(self, requests: Mapping[str, float]) -> None:
        self._requests = requests

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily("api_requests_in_flight", "Requests at the model servers now.", labels=["model"])
        for model, count in self._requests.items():
            family.add_metric([model], count)
        yield family
