"""Logging of bodies, if configured (`logging.bodies`): Envoy's tap filter.

It writes a file for each selected request, and accesslog_service turns the files into lines. No body passes through
Python before its request has ended.
"""

from gatehouse.config.model import Logging
from gatehouse.contract import names
from gatehouse.envoy.message import Message, extension

MAX_BODY_BYTES = 64 * 1024
"""Per body; the rest is cut off and marked so by Envoy."""
FILE_PREFIX = "body"

_ADMITTED: Message = {"http_request_headers_match": {"headers": [{"name": "x-gatehouse-user", "present_match": True}]}}
"""Behind ext_authz and ratelimit. Answers of refused requests pass the filter, too, but their requests do not."""
_FAILED: Message = {
    "http_response_headers_match": {
        "headers": [{"name": ":status", "string_match": {"safe_regex": {"regex": "[45].."}}}]
    }
}


def tap(logging: Logging, directory: str) -> list[Message]:
    """The filter, if there is something to tap; `directory` is where its files go.

    It comes after ext_authz, which has removed the key from the request, and before the filter that reads answers:
    requests are as the model server gets them, answers as the client does.
    """
    if logging.bodies == "off":
        return []
    sink = {"format": "JSON_BODY_AS_BYTES", "file_per_tap": {"path_prefix": f"{directory}/{FILE_PREFIX}"}}
    output = {
        "sinks": [sink],
        "max_buffered_rx_bytes": MAX_BODY_BYTES,
        "max_buffered_tx_bytes": MAX_BODY_BYTES,
    }
    config: Message = {"match": {"and_match": {"rules": [_ADMITTED, _FAILED]}}, "output_config": output}
    if logging.bodies == "sampled":
        share = {"numerator": round(logging.body_sample * 1_000_000), "denominator": "MILLION"}
        config |= {"match": _ADMITTED, "tap_enabled": {"default_value": share}}
    return [
        extension(
            names.TAP,
            "envoy.extensions.filters.http.tap.v3.Tap",
            common_config={"static_config": config},
        )
    ]
