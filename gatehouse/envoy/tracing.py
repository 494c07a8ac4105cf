"""Traces (OpenTelemetry): spans by Envoy, for a request and for each call made for it, sent by OTLP over gRPC.

A client's trace is continued (W3C Trace Context), and sampled or not as its `traceparent` says; of other requests a
share is sampled. The services make no spans: Envoy's spans of its calls to them have their durations and targets.

Without `tracing.otlp_endpoint` none of this is rendered.
"""

from urllib.parse import urlsplit

from gatehouse import __version__
from gatehouse.config.model import Config
from gatehouse.contract import gen_ai, names
from gatehouse.envoy.message import Message, extension

_TEXT_LIMIT = 256
"""Characters of a client's text in one attribute."""
_FLUSH = {"min_flush_spans": 256, "flush_interval_ms": 1000}
"""Envoy's default is a call to the receiver for every five spans, which is about one per request."""
_CALLER = ("user", "team", "tier", "key_id", "error_code")
_LIMITED_BY = "limited_by"
_TOKENS = {
    gen_ai.INPUT_TOKENS: "input_tokens",
    gen_ai.OUTPUT_TOKENS: "output_tokens",
    gen_ai.CACHE_READ_TOKENS: "cache_read_tokens",
    gen_ai.CACHE_WRITTEN_TOKENS: "cache_written_tokens",
}


def connection_manager(config: Config) -> Message:
    """Fields of the connection manager: none, or `tracing`."""
    if not config.tracing.on:
        return {}
    return {
        "tracing": {
            "provider": _provider(config),
            "client_sampling": {"value": 0},  # by x-client-trace-id; clients request sampling by traceparent
            "spawn_upstream_span": True,
            "operation": _REQUEST_NAME,
            "upstream_operation": _CALL_NAME,
            "custom_tags": _tags(),
        }
    }


def runtime(config: Config) -> Message:
    """Values of the static runtime layer."""
    return {"tracing": {"opentelemetry": _FLUSH}} if config.tracing.on else {}


def never(config: Config) -> Message:
    """Fields of a route whose requests are never traced, whatever a client asks for: probes and scrapes."""
    return {"tracing": {"overall_sampling": {"numerator": 0}}} if config.tracing.on else {}


def entry_tags(config: Config) -> Message:
    """Fields of the gRPC access logger: the trace of a request, sampled or not."""
    return {"custom_tags": [{"tag": names.TRACE_ID_TAG, "value": "%TRACE_ID%"}]} if config.tracing.on else {}


def line_fields(config: Config) -> Message:
    """The same for the JSON log."""
    return {"trace_id": "%TRACE_ID%"} if config.tracing.on else {}


def _provider(config: Config) -> Message:
    receiver = urlsplit(config.tracing.otlp_endpoint or "")
    version = extension(
        "envoy.tracers.opentelemetry.resource_detectors.static_config",
        "envoy.extensions.tracers.opentelemetry.resource_detectors.v3.StaticConfigResourceDetectorConfig",
        attributes={"service.version": __version__},
    )
    return extension(
        "envoy.tracers.opentelemetry",
        "envoy.config.trace.v3.OpenTelemetryConfig",
        service_name=names.SERVICE,
        resource_detectors=[version],
        sampler=_sampler(config.tracing.sample),
        grpc_service={
            "envoy_grpc": {"cluster_name": names.OTLP, "authority": receiver.netloc},
            "timeout": "10s",
        },
    )


def _sampler(share: float) -> Message:
    """Sampling shares of the connection manager would come before the parent's flag; a sampler comes after."""
    samplers = "envoy.extensions.tracers.opentelemetry.samplers.v3"
    ratio = extension(
        "envoy.tracers.opentelemetry.samplers.trace_id_ratio_based",
        f"{samplers}.TraceIdRatioBasedSamplerConfig",
        sampling_percentage={"numerator": round(share * 1_000_000), "denominator": "MILLION"},
    )
    return extension(
        "envoy.tracers.opentelemetry.samplers.parent_based",
        f"{samplers}.ParentBasedSamplerConfig",
        wrapped_sampler=ratio,
    )


def _tags() -> list[Message]:
    """Attributes of spans beside Envoy's own. A tag without a value is left out."""
    return [
        # Envoy's own has the query, in which some clients put secrets.
        _text("http.url", f"%REQ(:SCHEME)%://%REQ(:AUTHORITY):{_TEXT_LIMIT}%%PATH(NQ):{_TEXT_LIMIT}%"),
        *(_text(f"gatehouse.{field}", _metadata(names.AUTHZ, field)) for field in _CALLER),
        _text(f"gatehouse.{_LIMITED_BY}", _metadata(names.LIMITS, _LIMITED_BY)),
        _text(gen_ai.OPERATION, _cel(_OPERATION)),
        _text(gen_ai.PROVIDER, _cel(f"{_IS_OPERATION} ? '{gen_ai.VLLM}' : ''")),
        _text(gen_ai.REQUEST_MODEL, _cel(_MODEL)),
        *(_number(tag, field) for tag, field in _TOKENS.items()),
    ]


def _text(tag: str, value: str) -> Message:
    return {"tag": tag, "value": value}


def _number(tag: str, field: str) -> Message:
    return {"tag": tag, "value": _metadata(names.LLM, field), "value_type": "INT"}


def _metadata(namespace: str, field: str) -> str:
    return f"%DYNAMIC_METADATA({namespace}:{field})%"


def _cel(expression: str) -> str:
    return f"%CEL({expression}):{_TEXT_LIMIT}%"


def _mapping() -> str:
    return "{" + ", ".join(f"'{path}': '{name}'" for path, name in gen_ai.OPERATIONS.items()) + "}"


_IS_OPERATION = f"request.url_path in {_mapping()}"
_OPERATION = f"{_mapping()}[request.url_path]"
_LLM = f"metadata.filter_metadata['{names.LLM}']"
_BODY_MODEL = f"{_LLM}['model']"
_ASKED_FOR = "request.headers['x-gatehouse-model']"
_MODEL = (
    f"'x-gatehouse-model' in request.headers ? {_ASKED_FOR} : "
    f"'{names.LLM}' in metadata.filter_metadata && 'model' in {_LLM} ? {_BODY_MODEL} : ''"
)
"""A request to a model server has the model in a header; a refused one only in its body's metadata."""
_ROUTE = "xds.route_name"
_REQUEST_NAME = f"%REQ(:METHOD)% {_cel(f'request.url_path in {list(names.ENDPOINTS)} ? request.url_path : {_ROUTE}')}"
"""`{method} {route}`, with few routes (semantic conventions for HTTP spans)."""
_CALL_NAME = " ".join(
    _cel(f"{_IS_OPERATION} ? {genai} : {other}")
    for genai, other in ((_OPERATION, "request.method"), (_ASKED_FOR, _ROUTE))
)
"""`{gen_ai.operation.name} {gen_ai.request.model}` (semantic conventions for GenAI spans)."""
