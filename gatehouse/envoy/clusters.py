"""Who Envoy calls: the sidecars over unix sockets, and the model servers."""

from urllib.parse import urlsplit

from gatehouse.config.model import Backend, Config, base_path
from gatehouse.envoy import names
from gatehouse.envoy.message import Message, typed
from gatehouse.envoy.routes import served
from gatehouse.run_dir import SERVICES, RunDir, first_rank, workers

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_RANKED = ("authz", "ratelimit")
_BACKEND_IDLE = "4s"
"""uvicorn closes idle connections after 5 s; closing first avoids sending a request into a closing one."""


def sidecars(config: Config, run_dir: RunDir) -> list[Message]:
    """One cluster a service, and one for the pages that accesslog_service answers."""
    grpc = [
        _sidecar(service, [str(run_dir.socket(service, i)) for i in range(workers(config, service))], grpc=True)
        for service in SERVICES
    ]
    pages = [str(run_dir.http_socket(i)) for i in range(workers(config, "accesslog"))]
    return [*grpc, _sidecar(names.GATEWAY, pages, grpc=False)]


def _sidecar(name: str, sockets: list[str], *, grpc: bool) -> Message:
    protocol: Message = {"http2_protocol_options": {}} if grpc else {"http_protocol_options": {}}
    first = first_rank(len(sockets)) if name in _RANKED else len(sockets)
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "0.25s",
        "lb_policy": "ROUND_ROBIN" if name == "accesslog" else "LEAST_REQUEST",
        "load_assignment": {"cluster_name": name, "endpoints": _ranks(sockets, first)},
        **_options(explicit_http_config=protocol),
        "circuit_breakers": _breakers(4096),
        "outlier_detection": _ejection(1 if name == "accesslog" else 5),
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        **({"health_checks": [_grpc_check()]} if grpc else {}),
    }


def _ranks(sockets: list[str], first: int) -> list[Message]:
    """The first so many, and behind them the others."""
    groups = [group for group in (sockets[:first], sockets[first:]) if group]
    return [
        {"priority": rank, "lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": path}}}} for path in group]}
        for rank, group in enumerate(groups)
    ]


def _grpc_check() -> Message:
    return {
        "timeout": "1s",
        "interval": "0.5s",
        "no_traffic_interval": "0.5s",
        "unhealthy_interval": "0.25s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        "grpc_health_check": {},
    }


def _ejection(failures: int) -> Message:
    """One failure is enough for accesslog: each connection to a dead receiver costs a batch of log entries."""
    return {
        "consecutive_5xx": failures,
        "consecutive_gateway_failure": failures,
        "interval": "0.5s",
        "base_ejection_time": "1s",
        "max_ejection_time": "1s",
        "max_ejection_percent": 50,
    }


def receiver(config: Config) -> list[Message]:
    """Where traces go, if anywhere. The gateway starts and works without it."""
    if config.tracing.otlp_endpoint is None:
        return []
    endpoint = Backend(url=config.tracing.otlp_endpoint)
    cluster = {
        "name": names.OTLP,
        "type": "STRICT_DNS",
        "wait_for_warm_on_init": False,
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": "2s",
        "load_assignment": _assignment(names.OTLP, [_endpoint(endpoint)]),
        **_options(explicit_http_config={"http2_protocol_options": {}}),
    }
    tls = _tls(endpoint)
    return [{**cluster, "transport_socket": tls} if tls else cluster]


def model_clusters(config: Config) -> list[Message]:
    """One cluster a model, that CDS serves."""
    return [_model_cluster(model, _backends(config, model)) for model in served(config)]


def _backends(config: Config, model: str) -> tuple[Backend, ...]:
    return (Backend(url=config.vllm.base_url),) if config.vllm else config.models[model].backends


def _model_cluster(model: str, backends: tuple[Backend, ...]) -> Message:
    name = names.model_cluster(model)
    cluster: Message = {
        "name": name,
        "type": "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": "2s",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": name, "endpoints": _localities(backends)},
        **_options(
            explicit_http_config={"http_protocol_options": {}},
            common_http_protocol_options={"idle_timeout": _BACKEND_IDLE},
        ),
        "circuit_breakers": _breakers(16384),
        "health_checks": [_http_check(backends[0])],
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
    }
    tls = _tls(backends[0])
    return {**cluster, "transport_socket": tls} if tls else cluster


def _localities(backends: tuple[Backend, ...]) -> list[Message]:
    """Backends by priority: a higher number is used only when the lower ones are unhealthy."""
    return [
        {"priority": level, "lb_endpoints": [_endpoint(b) for b in backends if b.priority == priority]}
        for level, priority in enumerate(sorted({b.priority for b in backends}))
    ]


def _endpoint(backend: Backend) -> Message:
    url = urlsplit(backend.url)
    port = url.port or (443 if url.scheme == "https" else 80)
    endpoint = {
        "address": {"socket_address": {"address": url.hostname, "port_value": port}},
        "hostname": url.hostname,
        "health_check_config": {"hostname": url.hostname},
    }
    return {"endpoint": endpoint, "load_balancing_weight": backend.weight}


def _http_check(backend: Backend) -> Message:
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


def _tls(backend: Backend) -> Message | None:
    url = urlsplit(backend.url)
    if url.scheme != "https":
        return None
    trusted = {"trusted_ca": {"filename": "/etc/ssl/certs/ca-certificates.crt"}}
    context = typed(
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        auto_host_sni=True,
        auto_sni_san_validation=True,
        common_tls_context={"validation_context": trusted},
    )
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _assignment(name: str, endpoints: list[Message]) -> Message:
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}


def _options(**fields: Message) -> Message:
    return {"typed_extension_protocol_options": {_HTTP_OPTIONS: typed(_HTTP_OPTIONS, **fields)}}


def _breakers(most: int) -> Message:
    """Envoy's defaults (1,024 requests, 3 retries) are for small services."""
    thresholds = {"max_connections": most, "max_pending_requests": most, "max_requests": most, "max_retries": 1024}
    return {"thresholds": [thresholds]}
