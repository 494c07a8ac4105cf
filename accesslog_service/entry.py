"""An access-log entry of Envoy (`envoy.data.accesslog.v3.HTTPAccessLogEntry`) -> a record.

Entries are read by attribute, so this module needs no generated code. What a client wrote is cut to a length.
"""

import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from accesslog_service.record import Record
from accesslog_service.refusal import error_code
from gatehouse.config.model import Price
from gatehouse.config.prices import Prices, cost_micro_usd
from gatehouse.contract import names
from gatehouse.contract.asks import parsed
from gatehouse.contract.errors import UPSTREAM_ERROR
from gatehouse.contract.names import TRACE_ID_TAG

MAX_MODEL = MAX_USER_AGENT = 256
MAX_ENDPOINT = 128
MAX_COUNT = 2**53
"""Numbers in metadata are doubles: beyond this they no longer count one by one."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_MODEL_CLUSTERS = names.model_cluster("")
_OLD_STREAM = "gatehouse.usage"
_OLD_MISSING_MODEL, _OLD_UNREADABLE_BODY = "__missing__", "__error__"
"""What older versions of the gateway say, in logs that are reconciled: where the first event's time stood, and models
that are none."""
_FINAL = (0, 6)  # AccessLogType NotSet, DownstreamEnd
METHODS = ("", "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
_TRACE_ID = re.compile(r"[0-9a-f]{32}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C Trace Context, section 3.2

FLAGS = {
    "failed_local_healthcheck": "LH",
    "no_healthy_upstream": "UH",
    "upstream_request_timeout": "UT",
    "local_reset": "LR",
    "upstream_remote_reset": "UR",
    "upstream_connection_failure": "UF",
    "upstream_connection_termination": "UC",
    "upstream_overflow": "UO",
    "no_route_found": "NR",
    "delay_injected": "DI",
    "fault_injected": "FI",
    "rate_limited": "RL",
    "unauthorized_details": "UAEX",
    "rate_limit_service_error": "RLSE",
    "downstream_connection_termination": "DC",
    "upstream_retry_limit_exceeded": "URX",
    "stream_idle_timeout": "SI",
    "invalid_envoy_request_headers": "IH",
    "downstream_protocol_error": "DPE",
    "upstream_max_stream_duration_reached": "UMSDR",
    "response_from_cache_filter": "RFCF",
    "no_filter_config_found": "NFCF",
    "duration_timeout": "DT",
    "upstream_protocol_error": "UPE",
    "no_cluster_found": "NC",
    "overload_manager": "OM",
    "dns_resolution_failure": "DF",
    "downstream_remote_reset": "DR",
}
"""Fields of `ResponseFlags` -> the letters of Envoy's %RESPONSEFLAGS%."""

_CLIENT_LEFT = {"DC", "DR"}
_CUT = {"UPE", "UC", "UR", "LR", "UT", "SI", "DT", "UMSDR"}
"""With a status below 400 these came after the answer had begun: before, they are the answer, as an error."""


def is_final(entry: Any) -> bool:
    """Whether `entry` tells of the end of its request, not of a stream that still runs."""
    common = entry.common_properties
    return not common.intermediate_log_entry and common.access_log_type in _FINAL


def record(entry: Any, default_model: str | None, prices: Prices = MappingProxyType({})) -> Record:
    """The record of a final entry. `default_model` is the model of a request that named none, in logs of older
    versions.

    Total: fields that are absent or make no sense give None, 0 or "", whatever the entry holds.
    """
    common, request, response = entry.common_properties, entry.request, entry.response
    metadata = common.metadata.filter_metadata
    authz, limits, llm = (_fields(metadata, name) for name in (names.AUTHZ, names.LIMITS, names.LLM))
    status, details = response.response_code.value, response.response_code_details
    flags = [FLAGS[field.name] for field, _ in common.response_flags.ListFields()]
    cluster = common.upstream_cluster
    by_model_server = cluster.startswith(_MODEL_CLUSTERS)
    refused = _text(authz, "error_code") or _text(llm, "refused") or _text(limits, "error_code")
    answered_well, asks = by_model_server and 200 <= status < 300, _text(llm, "asks")
    failed_within = answered_well and "error" in llm
    if failed_within:
        refused = UPSTREAM_ERROR
    aborted = bool(flags) and _aborted(status, flags)
    most, choices, prompt_bytes, images = parsed(asks or "") or _UNSAID
    model, tokens = _model(llm, default_model), _tokens(llm, to_the_end=not (aborted or failed_within))
    return Record(
        time=_instant(common.start_time),
        request_id=request.request_id or common.stream_id,
        trace_id=_trace_id(common.custom_tags, request.request_headers),
        user_id=_text(authz, "user"),
        team=_text(authz, "team"),
        tier=_text(authz, "tier"),
        key_id=_text(authz, "key_id"),
        method=METHODS[request.request_method] if 0 <= request.request_method < len(METHODS) else "",
        endpoint=_endpoint(request.path, by_model_server),
        model=model,
        backend=_backend(common, cluster) if by_model_server else None,
        status=status,
        error_code=refused or error_code(status, details, common.route_name, flags),
        stream=_is_true(llm, "stream"),
        prompt_tokens=tokens.prompt,
        completion_tokens=tokens.completion,
        cached_tokens=tokens.cached,
        cost_usd=_cost_usd(tokens, prices.get(model or "")),
        duration_ms=_ms(common.duration),
        ttft_ms=_ttft_ms(common, metadata, llm) if answered_well else None,
        attempts=common.upstream_request_attempt_count,
        bytes_in=request.request_body_bytes,
        bytes_out=response.response_body_bytes,
        client_ip=common.downstream_remote_address.socket_address.address or None,
        user_agent=_cut(request.user_agent, MAX_USER_AGENT) or None,
        limited_by=_text(limits, "limited_by"),
        flags=",".join(flags),
        aborted=aborted,
        max_tokens=most,
        n=choices,
        prompt_bytes=prompt_bytes,
        images=images,
        key_limits=_text(authz, "key_limits"),
        key_family=_text(authz, "key_family"),
        asks=asks,
        leased_by=_count(limits, "leased_by"),
    )


def _endpoint(path: str, by_model_server: bool) -> str:
    """Where a model server's URL has a path before `/v1`, Envoy logs the path as it was rewritten for that server."""
    plain = path.partition("?")[0].partition("#")[0]
    if by_model_server and plain not in names.ENDPOINTS:
        plain = next((endpoint for endpoint in names.ENDPOINTS if plain.endswith(endpoint)), plain)
    return _cut(plain, MAX_ENDPOINT)


def _fields(metadata: Any, namespace: str) -> Mapping[str, Any]:
    found = metadata.get(namespace)
    return _NOTHING if found is None else found.fields


def _text(fields: Mapping[str, Any], key: str) -> str | None:
    value = fields.get(key)
    return None if value is None else value.string_value or None


def _is_true(fields: Mapping[str, Any], key: str) -> bool:
    value = fields.get(key)
    return value is not None and value.bool_value


def _count(fields: Mapping[str, Any], key: str) -> int | None:
    value = fields.get(key)
    if value is None:
        return None
    number = value.number_value
    if not number and value.WhichOneof("kind") != "number_value":
        return None
    return int(number) if 0 <= number <= MAX_COUNT else None


class _Tokens(NamedTuple):
    """What the model server has counted. `cached` is part of `prompt`, reasoning is part of `completion`."""

    prompt: int | None
    completion: int | None
    cached: int | None


_UNCOUNTED = _Tokens(None, None, None)
_UNSAID = (None, None, None, None)


def _tokens(llm: Mapping[str, Any], *, to_the_end: bool) -> _Tokens:
    """Of an answer that did not reach its end, what it had sent counts, unless its server had counted more.

    Older versions log those of a cache of Anthropic's messages apart from `input_tokens`.
    """
    if not llm:
        return _UNCOUNTED
    fresh, read = _count(llm, "input_tokens"), _count(llm, "cache_read_tokens")
    prompt = None if fresh is None else fresh + (read or 0) + (_count(llm, "cache_written_tokens") or 0)
    cached = _count(llm, "cached_tokens") if read is None else read
    output = _count(llm, "output_tokens")
    if not to_the_end and (produced := _count(llm, "produced")):
        output = max(produced, output or 0)
    return _Tokens(prompt, output, cached)


def _model(llm: Mapping[str, Any], default_model: str | None) -> str | None:
    """None if nobody looked for one, "" if there is none that could be read."""
    if "model" not in llm:
        return "" if llm else None
    name: str = llm["model"].string_value
    if name == _OLD_MISSING_MODEL:
        name = default_model or ""
    return "" if name == _OLD_UNREADABLE_BODY else _cut(name, MAX_MODEL)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _trace_id(tags: Mapping[str, str], headers: Mapping[str, str]) -> str | None:
    """Of the trace that Envoy took up or began; without tracing, of the one that the client says it began."""
    traced = tags.get(TRACE_ID_TAG, "")
    if _TRACE_ID.fullmatch(traced):
        return traced
    match = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    return match[1] if match else None


def _backend(common: Any, cluster: str) -> str:
    """`address:port` of the replica that the request went to, or its cluster when it came to none."""
    address = common.upstream_remote_address.socket_address
    host = f"[{address.address}]" if ":" in address.address else address.address
    return f"{host}:{address.port_value}" if host else cluster


def _instant(timestamp: Any) -> datetime:
    try:
        return datetime.fromtimestamp(timestamp.seconds + timestamp.nanos / 1e9, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def _ms(duration: Any) -> float:
    milliseconds: float = duration.seconds * 1e3 + duration.nanos / 1e6
    return round(milliseconds, 3)


def _ttft_ms(common: Any, metadata: Any, llm: Mapping[str, Any]) -> float | None:
    """To the first event of a stream, else to the first byte: model servers send headers before they have a token."""
    where = llm if "first_event_ms" in llm else _fields(metadata, _OLD_STREAM)
    first_event = _count(where, "first_event_ms")
    if first_event is not None:
        start_ms: float = common.start_time.seconds * 1e3 + common.start_time.nanos / 1e6
        return round(max(0.0, first_event - start_ms), 3)
    for name in ("time_to_first_upstream_rx_byte", "time_to_first_downstream_tx_byte"):
        if common.HasField(name):
            return _ms(getattr(common, name))
    return None


def _cost_usd(tokens: _Tokens, price: Price | None) -> float | None:
    if price is None or tokens.prompt is None:
        return None
    return cost_micro_usd(price, tokens.prompt, tokens.completion or 0, tokens.cached or 0) / 1e6


def _aborted(status: int, flags: Collection[str]) -> bool:
    return not _CLIENT_LEFT.isdisjoint(flags) or (0 < status < 400 and not _CUT.isdisjoint(flags))
