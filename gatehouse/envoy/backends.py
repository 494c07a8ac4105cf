"""The clusters of the model servers, one per model, and the choice of a replica.

The guarantees, with their times, are in docs/models.md.
"""

from typing import Any

from gatehouse.config.model import Backend, Config, Model, base_path, served
from gatehouse.contract import names
from gatehouse.envoy import saturation, upstream_keys
from gatehouse.envoy.endpoints import address, encrypted, endpoint, options, tls
from gatehouse.envoy.message import Message
from gatehouse.envoy.upstream_keys import Source

_IDLE = "4s"
"""uvicorn closes idle connections after 5 s; closing first avoids sending a request into a closing one."""

_BUFFER_BYTES = 640 * 1024
"""What Envoy buffers of an answer that its client does not read yet, before the model server has to wait. What a busy
model server sends in one burst (1,500 events, half a MiB) fits: so it is counted even if the client then leaves."""

_TLS_MATCH = "envoy.transport_socket_match"
"""Metadata of an endpoint, by which it finds its transport socket (Envoy, `transport_socket_matches`)."""

_COMMON_LB = {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"}
"""No server that is down is called, not even if all are; and Envoy's threads learn of changes in health at once, where
the default is to merge those of a second."""

_BALANCERS = {"least_request": "LEAST_REQUEST", "round_robin": "ROUND_ROBIN", "session_affinity": "MAGLEV"}


def model_clusters(config: Config, secrets: Source | None = None) -> list[Message]:
    """One cluster per model, served by CDS. `secrets` gives the file with each model's credential, if it is not among
    the static ones."""
    return [_cluster(config, name, model, secrets) for name, model in served(config).items()]


def _cluster(config: Config, model_name: str, model: Model, secrets: Source | None) -> Message:
    name = names.model_cluster(model_name)
    return {
        "name": name,
        "type": "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": "2s",
        "per_connection_buffer_limit_bytes": _BUFFER_BYTES,
        "lb_policy": _BALANCERS[model.balance],
        "load_assignment": {"cluster_name": name, "endpoints": _levels(model.backends)},
        **options(
            explicit_http_config={"http_protocol_options": {}},
            common_http_protocol_options={"idle_timeout": _IDLE},
            **upstream_keys.injection(model_name, model, secrets),
        ),
        "circuit_breakers": saturation.breakers(config, model),
        "health_checks": [_health_check(model.backends[0])],
        "outlier_detection": _ejection(),
        "common_lb_config": _COMMON_LB,
        **_transport(model.backends),
    }


def _levels(backends: tuple[Backend, ...]) -> list[Message]:
    """Backends by priority: a higher number is used only as far as the lower ones are unhealthy."""
    return [
        {"priority": level, "lb_endpoints": [_endpoint(b) for b in backends if b.priority == priority]}
        for level, priority in enumerate(sorted({b.priority for b in backends}))
    ]


def _endpoint(backend: Backend) -> Message:
    if not encrypted(backend):
        return endpoint(backend)
    return {**endpoint(backend), "metadata": {"filter_metadata": {_TLS_MATCH: _trust(backend)}}}


def _trust(backend: Backend) -> dict[str, Any]:
    """Backends with the same value may share a transport socket."""
    return {"tls": address(backend) or "by name", "ca_file": backend.ca_file or ""}


def _transport(backends: tuple[Backend, ...]) -> Message:
    """Transport sockets for backends with TLS; the others match none."""
    found = {tuple(_trust(backend).values()): backend for backend in backends if encrypted(backend)}
    matches = [
        {"name": " ".join(trust), "match": _trust(backend), "transport_socket": tls(backend)}
        for trust, backend in found.items()
    ]
    return {"transport_socket_matches": matches} if matches else {}


def _health_check(backend: Backend) -> Message:
    """vLLM answers 503 once its engine is dead. A server without `/health` answers 404, and is alive."""
    return {
        "timeout": "2s",
        "interval": "1s",
        "no_traffic_interval": "1s",
        "unhealthy_interval": "0.5s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        "http_health_check": {
            "path": base_path(backend.url) + "/health",
            "expected_statuses": [{"start": 200, "end": 500}],
        },
    }


def _ejection() -> Message:
    """Ejects after five answers of 502, 503 or 504, or broken connections, in a row.

    An answer of 500 does not count: a client's request can cause it. At most half of a model's replicas are ejected, so
    a single one never is; and successful health checks don't bring one back, since a server may be up and yet fail.
    """
    return {
        "consecutive_gateway_failure": 5,
        "enforcing_consecutive_gateway_failure": 100,
        "enforcing_consecutive_5xx": 0,
        "enforcing_success_rate": 0,
        "interval": "1s",
        "base_ejection_time": "5s",
        "max_ejection_time": "60s",
        "max_ejection_percent": 50,
        "successful_active_health_check_uneject_host": False,
    }
