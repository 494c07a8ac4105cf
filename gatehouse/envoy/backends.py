"""The model servers: one cluster a model, and which of its replicas is called.

What is promised of them, with the times, stands in docs/models.md.
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
"""Of an answer that its client does not read yet: then the model server has to wait. What a model server sends at once
when its machine is busy (1,500 events, half a MiB) is read at once: so it is counted, though its client leaves then."""

_TLS_MATCH = "envoy.transport_socket_match"
"""Metadata of an endpoint, by which it finds its transport socket (Envoy, `transport_socket_matches`)."""

_AT_ONCE = {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"}
"""Nobody who is down is called for want of a better, and Envoy's threads hear of who is down or back as soon as it is
known, where by default they may wait a second for more of the like."""

_BALANCERS = {"least_request": "LEAST_REQUEST", "round_robin": "ROUND_ROBIN", "session_affinity": "MAGLEV"}


def model_clusters(config: Config, secrets: Source | None = None) -> list[Message]:
    """One cluster a model, that CDS serves. `secrets`: in which file Envoy finds each model's
    credential, if not among its static ones."""
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
            **upstream_keys.injected(model_name, model, secrets),
        ),
        "circuit_breakers": saturation.breakers(config, model),
        "health_checks": [_health_check(model.backends[0])],
        "outlier_detection": _ejection(),
        "common_lb_config": _AT_ONCE,
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
    """Backends that may share a transport socket are alike in this."""
    return {"tls": address(backend) or "by name", "ca_file": backend.ca_file or ""}


def _transport(backends: tuple[Backend, ...]) -> Message:
    """Transport sockets for those that are spoken to by TLS; the others match none."""
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
    """Out after five answers of 502, 503 or 504, or broken connections, in a row.

    An answer of 500 counts for nothing: a client's request can bring it about. At most half of a model's replicas are
    out, so the only one never is; and health checks that succeed don't bring one back, which would undo the ejection
    of a server that is up and yet fails.
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
