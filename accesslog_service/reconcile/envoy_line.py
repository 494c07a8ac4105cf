"""A line of Envoy's JSON log (`gatehouse.envoy.access_log`) -> the access-log entry that says the same.

So records that are restored are made by the code that makes all others (`accesslog_service.entry`).
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from accesslog_service.entry import FLAGS, METHODS
from gatehouse.contract import names
from gatehouse.contract.failures import GatehouseError
from gatehouse.contract.names import TRACE_ID_TAG
from gatehouse.pb.accesslog_pb2 import AccessLogType, HTTPAccessLogEntry, ResponseFlags
from gatehouse.pb.base_pb2 import RequestMethod

Line = Mapping[str, Any]

_FLAG_FIELDS = {letters: field for field, letters in FLAGS.items()}
_METHODS: dict[str, Any] = {method: RequestMethod.Value(method) for method in METHODS[1:]}
_NAMESPACES = {"caller": names.AUTHZ, "llm": names.LLM, "limits": names.LIMITS}
_OLD_NAMESPACES = {"stream": "gatehouse.usage"}
"""What only lines of older versions have."""


class UnreadableLineError(GatehouseError):
    """It is JSON, but no line of Envoy's log."""


def ended(line: Line) -> datetime:
    """When the request ended. Raises `UnreadableLineError`."""
    try:
        return _start(line) + timedelta(milliseconds=line["duration_ms"] or 0)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UnreadableLineError from None


def entry_of(line: Line) -> HTTPAccessLogEntry:
    """The entry of the end of a request, to the millisecond. Raises `UnreadableLineError`."""
    try:
        return _entry(line)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise UnreadableLineError from None


def _start(line: Line) -> datetime:
    start = datetime.fromisoformat(line["time"])
    if start.tzinfo is not UTC:
        raise ValueError("Envoy's times are UTC")
    return start


def _entry(line: Line) -> HTTPAccessLogEntry:
    entry = HTTPAccessLogEntry()
    common, request, response = entry.common_properties, entry.request, entry.response
    common.access_log_type = AccessLogType.DownstreamEnd
    common.start_time.FromDatetime(_start(line))
    common.duration.FromMilliseconds(line["duration_ms"] or 0)
    if line["ttft_ms"] is not None:
        common.time_to_first_upstream_rx_byte.FromMilliseconds(line["ttft_ms"])
    common.upstream_cluster = line["cluster"] or ""
    common.route_name = line["route"] or ""
    common.upstream_request_attempt_count = line["attempts"] or 0
    common.downstream_remote_address.socket_address.address = line["client_ip"] or ""
    _set_address(common.upstream_remote_address, line["upstream"] or "")
    _set_flags(common.response_flags, line["flags"] or "-")
    for field, namespace in _NAMESPACES.items():
        common.metadata.filter_metadata[namespace].update(_said(line[field]))
    for field, namespace in _OLD_NAMESPACES.items():
        common.metadata.filter_metadata[namespace].update(_said(line.get(field)))
    request.request_id = line["request_id"] or ""
    if line["method"] in _METHODS:
        request.request_method = _METHODS[line["method"]]
    request.path = line["path"] or ""
    request.user_agent = line["user_agent"] or ""
    request.request_body_bytes = line["bytes_in"] or 0
    if line.get("trace_id"):  # only with tracing
        common.custom_tags[TRACE_ID_TAG] = line["trace_id"]
    if line["traceparent"]:
        request.request_headers["traceparent"] = line["traceparent"]
    response.response_code.value = line["status"] or 0
    response.response_code_details = line["details"] or ""
    response.response_body_bytes = line["bytes_out"] or 0
    return entry


def _said(fields: Line | None) -> dict[str, Any]:
    return {key: value for key, value in (fields or {}).items() if value is not None}


def _set_address(address: Any, text: str) -> None:
    """`10.0.0.7:8100`, `[fd00::7]:8100`; sidecars have paths."""
    host, _, port = text.rpartition(":")
    if port.isdecimal():
        address.socket_address.address, address.socket_address.port_value = host.strip("[]"), int(port)


def _set_flags(flags: ResponseFlags, letters: str) -> None:
    """Letters that are not known are left out, as they are from entries."""
    for each in letters.split(","):
        field = _FLAG_FIELDS.get(each)
        if field == "unauthorized_details":
            flags.unauthorized_details.reason = ResponseFlags.Unauthorized.EXTERNAL_SERVICE
        elif field:
            setattr(flags, field, True)
