"""Metrics that only Envoy counts: read from its admin interface at each scrape and renamed."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from aiohttp import ClientError, ClientSession, ClientTimeout, UnixConnector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gatehouse.contract.names import EXPIRY_STAT
from gatehouse.gateway import envoy_binary
from gatehouse.gateway.envoy_binary import VERSION
from gatehouse.metrics import text

TIMEOUT = ClientTimeout(total=1.0)
PATCHES = "envoy.patches_behind"
"""A statistic built from Envoy's version."""

Stats = Mapping[str, float]
"""Envoy's statistics by name."""


@dataclass(frozen=True, slots=True)
class Stat:
    """One of our metrics, and its source statistic."""

    stat: str
    name: str
    text: str
    family: type[GaugeMetricFamily] | type[CounterMetricFamily]


IN_FLIGHT = "upstream_rq_active"
_LOG = "access_logs.grpc_access_log"
_HEALTHY, _ALL = "membership_healthy", "membership_total"
_BY_MODEL = (
    Stat(IN_FLIGHT, "api_requests_in_flight", "Requests at the model servers now.", GaugeMetricFamily),
    Stat(
        "upstream_rq_pending_active", "api_requests_queued", "Requests that wait for a connection.", GaugeMetricFamily
    ),
    Stat("upstream_rq_retry", "api_backend_retries", "Requests sent to a second replica.", CounterMetricFamily),
    Stat("upstream_cx_connect_fail", "api_backend_connect_failures", "Connections refused.", CounterMetricFamily),
    Stat("ratelimit.error", "api_rate_limit_unanswered", "Requests without a decision in time.", CounterMetricFamily),
)
_OF_GATEWAY = (
    Stat("http.gatehouse.ext_authz.error", "api_auth_unavailable", "Requests left unchecked.", CounterMetricFamily),
    Stat(PATCHES, "api_envoy_patches_behind", "Patches that the running Envoy is known to lack.", GaugeMetricFamily),
    Stat("http.gatehouse.downstream_cx_active", "api_connections", "Connections of clients now.", GaugeMetricFamily),
    Stat(
        EXPIRY_STAT,
        "api_certificate_expiry_timestamp_seconds",
        "When the certificate that clients are shown ends (Unix time).",
        GaugeMetricFamily,
    ),
    # Entries sent but missing from `api_access_log_entries_total` are in flight or, after a moment, lost.
    Stat(f"{_LOG}.logs_written", "api_access_log_sent", "Entries of its log that Envoy has sent.", CounterMetricFamily),
    Stat(f"{_LOG}.logs_dropped", "api_access_log_dropped", "Entries that Envoy has dropped.", CounterMetricFamily),
)
_FILTER = "|".join(
    [rf"cluster\.model_.*\.({'|'.join(re.escape(s) for s in (*(t.stat for t in _BY_MODEL), _HEALTHY, _ALL))})"]
    + [re.escape(told.stat) for told in _OF_GATEWAY]
)
QUERY = {"filter": f"^({_FILTER})$", "format": "json"}


def parsed(answer: bytes) -> Stats:
    """Parse Envoy's answer to `/stats?format=json`. A malformed answer gives no statistics."""
    try:
        return {str(stat["name"]): float(stat["value"]) for stat in json.loads(answer)["stats"]}
    except (ValueError, KeyError, TypeError):
        return {}


def by_model(stats: Stats, stat: str, models: Iterable[str]) -> dict[str, float]:
    """The values of `stat` by model.

    The clusters are called `model:<name>`. Envoy replaces `:` by `_` in the names of statistics; `models`,
    the configured names, restore the colons.
    """
    written = {name.replace(":", "_"): name for name in models}
    name_of = re.compile(rf"cluster\.model_(.*)\.{re.escape(stat)}")
    found = ((name_of.fullmatch(name), value) for name, value in stats.items())
    return {written.get(match[1], match[1]): value for match, value in found if match}


def patches_behind(answer: bytes) -> Stats:
    """Parse Envoy's answer to `/server_info`; empty if it has no version."""
    found = VERSION.search(answer.decode("utf-8", "replace"))
    return {PATCHES: envoy_binary.patches_behind(found[1])} if found else {}


async def read(admin_socket: Path) -> Stats:
    """Query the Envoy behind `admin_socket`; without one there are no statistics."""
    try:
        async with ClientSession(connector=UnixConnector(str(admin_socket)), timeout=TIMEOUT) as session:
            async with session.get("http://envoy/stats", params=QUERY) as response:
                stats = parsed(await response.read())
            async with session.get("http://envoy/server_info") as response:
                return {**stats, **patches_behind(await response.read())}
    except (ClientError, TimeoutError, OSError):
        return {}


def exposition(stats: Stats, models: Iterable[str]) -> bytes:
    """Prometheus' text format; empty without statistics."""
    return text([*_families(stats, tuple(models)), *_gateway(stats)])


def _families(stats: Stats, models: tuple[str, ...]) -> Iterable[Metric]:
    """Envoy creates some statistics at their first count: until then they are 0 for every model."""
    there = by_model(stats, IN_FLIGHT, models)
    for told in _BY_MODEL if there else ():
        family = told.family(told.name, told.text, labels=["model"])
        values = by_model(stats, told.stat, models)
        for model in there:
            family.add_metric([model], values.get(model, 0))
        yield family
    healthy, total = (by_model(stats, stat, models) for stat in (_HEALTHY, _ALL))
    if total:
        backends = GaugeMetricFamily("api_backends", "Replicas of model servers.", labels=["model", "state"])
        for model, count in total.items():
            backends.add_metric([model, "healthy"], healthy.get(model, 0))
            backends.add_metric([model, "unhealthy"], count - healthy.get(model, 0))
        yield backends


def _gateway(stats: Stats) -> Iterable[Metric]:
    for told in _OF_GATEWAY:
        if told.stat in stats:
            yield told.family(told.name, told.text, value=stats[told.stat])
