"""Clusters of the gateway itself: the sidecars, over unix sockets, and the receiver of traces."""

from gatehouse.config.model import Backend, Config
from gatehouse.config.run_dir import GRPC_SERVICES, RunDir, Service, first_rank, workers
from gatehouse.contract import names
from gatehouse.envoy.endpoints import assignment, encrypted, endpoint, options, tls
from gatehouse.envoy.message import Message, seconds
from gatehouse.envoy.retries import OTHER_HOST, other_priority

_RANKED = ("authz", "ratelimit")
_CHECK_TIMEOUT_S = {"authz": 2.0}
"""The time-out of a health check, if not a second: longer than a call of ext_authz may take, so that on an overloaded
machine a slow worker is not taken for dead."""
_FAILURES = {"authz": 5, "accesslog": 1}
"""After so many failures in a row, a worker is ejected. One is enough for accesslog: each connection to a dead receiver
costs a batch of log entries. The portal has only one address; for ratelimit see `_policy`."""
_FAST_BACK_OFF: Message = {"retry_back_off": {"base_interval": "0.005s", "max_interval": "0.05s"}}
_OVERPROVISIONING = 100_000
"""Overprovisioning factor in percent: how many times its share of the calls a host can take."""
_MOST = 4096
"""Requests at a time. Envoy's defaults (1,024 requests, 3 retries) are for small services."""


def sidecars(config: Config, run_dir: RunDir) -> list[Message]:
    """One cluster per service."""
    grpc = [_sidecar(service, _sockets(config, run_dir, service), grpc=True) for service in GRPC_SERVICES]
    if config.limits.on_failure == "allow":
        _stand_in(next(each for each in grpc if each["name"] == "ratelimit"), _sockets(config, run_dir, "accesslog"))
    return [*grpc, _sidecar(names.PORTAL, [str(run_dir.portal_socket)], grpc=False)]


def _sockets(config: Config, run_dir: RunDir, service: Service) -> list[str]:
    return [str(run_dir.socket(service, i)) for i in range(workers(config, service))]


def _stand_in(ratelimit: Message, sockets: list[str]) -> None:
    """Adds accesslog behind all workers of ratelimit, for when none takes calls (`accesslog_service.stand_in`)."""
    groups = ratelimit["load_assignment"]["endpoints"]
    groups.append({**_ranks(sockets, len(sockets))[0], "priority": len(groups)})


def _sidecar(name: str, sockets: list[str], *, grpc: bool) -> Message:
    protocol: Message = {"http2_protocol_options": {}} if grpc else {"http_protocol_options": {}}
    first = first_rank(len(sockets)) if name in _RANKED else len(sockets)
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "0.25s",
        "lb_policy": "ROUND_ROBIN" if name == "accesslog" else "LEAST_REQUEST",
        "load_assignment": {"cluster_name": name, "endpoints": _ranks(sockets, first), **_policy(name)},
        **options(explicit_http_config=protocol, **_retries(name, len(sockets))),
        "circuit_breakers": _breakers(),
        **({"outlier_detection": _ejection(_FAILURES[name])} if name in _FAILURES else {}),
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        **({"health_checks": [_grpc_check(_CHECK_TIMEOUT_S.get(name, 1.0))]} if grpc else {}),
    }


def _policy(name: str) -> Message:
    """One healthy worker of a rank takes all calls: otherwise a dead one would send its share to the next rank, and the
    last rank counts nothing. For the same reason no worker is ejected for being slow."""
    return {"policy": {"overprovisioning_factor": _OVERPROVISIONING}} if name == "ratelimit" else {}


def _retries(name: str, count: int) -> Message:
    """When a call is retried, with a host and a rank of hosts not tried yet.

    A check is safe to repeat. So is a decision on limits: a worker refunds what it charged for a call that was reset.
    """
    if name not in _RANKED:
        return {}
    elsewhere = {
        "retry_host_predicate": [OTHER_HOST],
        "retry_priority": other_priority(after=1),
        "host_selection_retry_max_attempts": 3,
    }
    if name == "ratelimit":
        when = "connect-failure,refused-stream" + (",reset" if count > 1 else "")
        return {"retry_policy": {"retry_on": when, "num_retries": 3, **_FAST_BACK_OFF, **elsewhere}}
    every = {
        "retry_on": "connect-failure,refused-stream,reset,unavailable,cancelled",
        "num_retries": 3,
        **_FAST_BACK_OFF,
    }
    return {"retry_policy": {**every, **elsewhere}}


def _ranks(sockets: list[str], first: int) -> list[Message]:
    """The first `first` sockets, and behind them the others."""
    groups = [group for group in (sockets[:first], sockets[first:]) if group]
    return [
        {"priority": rank, "lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": path}}}} for path in group]}
        for rank, group in enumerate(groups)
    ]


def _grpc_check(timeout_s: float) -> Message:
    return {
        "timeout": seconds(timeout_s),
        "interval": "0.5s",
        "no_traffic_interval": "0.5s",
        "unhealthy_interval": "0.25s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        "grpc_health_check": {},
    }


def _ejection(failures: int) -> Message:
    return {
        "consecutive_5xx": failures,
        "consecutive_gateway_failure": failures,
        "interval": "0.5s",
        "base_ejection_time": "1s",
        "max_ejection_time": "1s",
        "max_ejection_percent": 50,
    }


def receiver(config: Config) -> list[Message]:
    """The receiver of traces, if configured. The gateway starts and works without it."""
    if config.tracing.otlp_endpoint is None:
        return []
    target = Backend(url=config.tracing.otlp_endpoint)
    cluster = {
        "name": names.OTLP,
        "type": "STRICT_DNS",
        "wait_for_warm_on_init": False,
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": "2s",
        "load_assignment": assignment(names.OTLP, [endpoint(target)]),
        **options(explicit_http_config={"http2_protocol_options": {}}),
    }
    return [{**cluster, "transport_socket": tls(target)} if encrypted(target) else cluster]


def _breakers() -> Message:
    """Retries are at most as many as the requests themselves: more would make a slow service slower still."""
    most = {"max_connections": _MOST, "max_pending_requests": _MOST, "max_requests": _MOST}
    budget = {"budget_percent": {"value": 50}, "min_retry_concurrency": 128}
    return {"thresholds": [{**most, "retry_budget": budget}]}
