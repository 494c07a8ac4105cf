"""Envoy's local replies, as errors in OpenAI's format: renders the rows of `gatehouse.contract.local_errors`.

The first mapper whose filter matches applies. Answers that are already ours (direct responses, refusals of the
sidecars) are excluded by the guard, and answers of model servers are not local replies at all.
"""

import json

from gatehouse.contract import errors, names
from gatehouse.contract.errors import ClientError
from gatehouse.contract.local_errors import OURS, TABLE, LocalError, otherwise
from gatehouse.envoy.message import Message, extension, header, literal

_REQUEST_ID = {**header("x-request-id", "%UNIQUE_ID%"), "append_action": "ADD_IF_ABSENT"}
"""A request that could not even be parsed has no id yet."""

_OURS = f"[{', '.join(map(json.dumps, OURS))}]"
"""As CEL writes a list."""


def config() -> Message:
    """`local_reply_config` of the connection manager."""
    rows = [_mapper(row) for row in TABLE]
    return {"mappers": [_UNDECIDED, *rows, _anything_else(4), _anything_else(5)]}


def _mapper(row: LocalError) -> Message:
    return {"filter": _when(row), "status_code": row.error.status, **_answer(row.error)}


def _when(row: LocalError) -> Message:
    filters = []
    if row.details:
        filters.append(_cel(f'response.code_details.startsWith("{row.details}")'))
    if row.flags:
        filters.append({"response_flag_filter": {"flags": list(row.flags)}})
    if row.status:
        filters.append(_cel(f"response.code == {row.status} && !(response.code_details in {_OURS})"))
    return filters[0] if len(filters) == 1 else {"and_filter": {"filters": filters}}


def _cel(expression: str) -> Message:
    return {
        "extension_filter": extension(
            "envoy.access_loggers.extension_filters.cel",
            "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
            expression=expression,
        )
    }


def _undecided() -> Message:
    """ratelimit_service can refuse only with a 429. If it could not decide, this sets the right status."""
    codes = "|".join(error.code for error in (errors.LIMITS_UNAVAILABLE, errors.OVERLOADED, errors.AUTH_UNAVAILABLE))
    matcher = {
        "filter": names.LIMITS,
        "path": [{"key": "error_code"}],
        "value": {"string_match": {"safe_regex": {"regex": codes}}},
    }
    when = {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": False}}
    return {"filter": when, "status_code": 503}


_UNDECIDED = _undecided()


def _anything_else(kind: int) -> Message:
    """Replies that match no row keep their status: 4xx is the client's error, 5xx ours."""
    low, high = kind * 100, kind * 100 + 100
    when = _cel(f"response.code >= {low} && response.code < {high} && !(response.code_details in {_OURS})")
    return {"filter": when, **_answer(otherwise(low))}


def _answer(error: ClientError) -> Message:
    headers = [_REQUEST_ID]
    if error.retry_after_s is not None:
        headers.append(header("retry-after", str(error.retry_after_s)))
    body = {"json_format": _escaped(error.body()), "content_type": "application/json"}
    return {"body_format_override": body, "headers_to_add": headers}


def _escaped(value: object) -> object:
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    return literal(value) if isinstance(value, str) else value
