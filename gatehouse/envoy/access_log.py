"""What Envoy logs of each request: to accesslog_service over gRPC, and to a JSON file that is the durable copy.

The file has everything that a record is made of (`accesslog_service.reconcile.envoy_line` reads it), to the
millisecond.
"""

from gatehouse.config.model import Config
from gatehouse.contract import names
from gatehouse.contract.access_log import STRANGERS_LOGGED
from gatehouse.envoy import expect_continue, tracing
from gatehouse.envoy.message import Message, extension

FLUSH_INTERVAL_S = 0.05
"""Entries reach accesslog_service within this time; limits on concurrent requests wait for them."""

BATCH_BYTES = 128 * 1024
"""A batch of this size, some sixty entries, is sent without delay. Smaller batches cost the receiver more."""

_CALLER = ("user", "team", "tier", "key_id", "key_limits", "key_family", "error_code", "ext_authz_duration")
"""Fields of the caller in the file; without the models, which may be hundreds."""

_MAX_PATH, _MAX_USER_AGENT = 512, 1028
"""Bytes; records hold 128 and 256 characters of them."""

_FINAL: Message = {"log_type_filter": {"types": ["DownstreamEnd"]}}


def _status(comparison: str, status: int) -> Message:
    value = {"default_value": status, "runtime_key": "gatehouse.unset"}
    return {"status_code_filter": {"comparison": {"op": comparison, "value": value}}}


_WORTH_WRITING: Message = {
    "or_filter": {
        "filters": [
            {
                "metadata_filter": {
                    "matcher": {"filter": names.AUTHZ, "path": [{"key": "user"}], "value": {"present_match": True}},
                    "match_if_key_not_found": False,
                }
            },
            _status("LE", 399),
            _status("GE", 500),
            {"runtime_filter": {"runtime_key": STRANGERS_LOGGED, "percent_sampled": {"numerator": 100}}},
        ]
    }
}


def loggers(config: Config, file: str) -> list[Message]:
    """The two access loggers; `file` is the path of the JSON log."""
    return [_service(config), _file(config, file)]


def _service(config: Config) -> Message:
    common = {
        "log_name": names.DOMAIN,
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": "accesslog"}, "timeout": "0s"},
        "buffer_flush_interval": f"{FLUSH_INTERVAL_S}s",
        "buffer_size_bytes": BATCH_BYTES,
        **tracing.entry_tags(config),
    }
    return {
        "filter": expect_continue.RECORDED_HERE,
        **extension(
            "envoy.access_loggers.http_grpc",
            "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
            common_config=common,
            additional_request_headers_to_log=["traceparent", "x-stainless-retry-count"],
        ),
    }


def _file(config: Config, path: str) -> Message:
    line = {
        "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%6fZ)%",
        "request_id": "%STREAM_ID%",
        **tracing.line_fields(config),
        "traceparent": "%REQ(TRACEPARENT)%",
        "method": "%REQ(:METHOD)%",
        "path": f"%PATH(NQ):{_MAX_PATH}%",
        "status": "%RESPONSE_CODE%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "flags": "%RESPONSE_FLAGS%",
        "route": "%ROUTE_NAME%",
        "cluster": "%UPSTREAM_CLUSTER%",
        "upstream": "%UPSTREAM_HOST%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "duration_ms": "%DURATION%",
        "ttft_ms": "%RESPONSE_DURATION%",
        "bytes_in": "%BYTES_RECEIVED%",
        "bytes_out": "%BYTES_SENT%",
        "client_ip": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        "user_agent": f"%REQ(USER-AGENT):{_MAX_USER_AGENT}%",
        "caller": {field: f"%DYNAMIC_METADATA({names.AUTHZ}:{field})%" for field in _CALLER},
        "llm": f"%DYNAMIC_METADATA({names.LLM})%",
        "limits": f"%DYNAMIC_METADATA({names.LIMITS})%",
    }
    return {
        "filter": {"and_filter": {"filters": [_FINAL, expect_continue.RECORDED_HERE, _WORTH_WRITING]}},
        **extension(
            "envoy.access_loggers.file",
            "envoy.extensions.access_loggers.file.v3.FileAccessLog",
            path=path,
            log_format={"json_format": line},
        ),
    }
