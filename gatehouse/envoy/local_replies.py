"""Every answer that Envoy makes up itself, as one of the errors of `gatehouse.contract.errors`.

The first mapper whose filter holds decides. Answers that already are ours (direct responses, refusals of the sidecars)
are left alone by the guard, and answers of model servers are no local replies at all.
"""

from gatehouse.contract import errors, names
from gatehouse.contract.errors import ClientError
from gatehouse.envoy.message import Message, extension, header, literal

_REQUEST_ID = {**header("x-request-id", "%UNIQUE_ID%"), "append_action": "ADD_IF_ABSENT"}
"""What could not even be read as a request has no id yet."""

_OURS = '["direct_response", "ext_authz_denied", "request_rate_limited"]'


def config() -> Message:
    """`local_reply_config` of the connection manager."""
    rows = [_mapper(when, error) for when, error in _TABLE]
    return {"mappers": [_UNDECIDED, *rows, _anything_else(4), _anything_else(5)]}


def _details_start(prefix: str) -> Message:
    return _cel(f'response.code_details.startsWith("{prefix}")')


def _cel(expression: str) -> Message:
    return {
        "extension_filter": extension(
            "envoy.access_loggers.extension_filters.cel",
            "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
            expression=expression,
        )
    }


def _flags(*flags: str) -> Message:
    return {"response_flag_filter": {"flags": list(flags)}}


def _status(status: int) -> Message:
    return _cel(f"response.code == {status} && !(response.code_details in {_OURS})")


def _both(*filters: Message) -> Message:
    return {"and_filter": {"filters": list(filters)}}


_TABLE: tuple[tuple[Message, ClientError], ...] = (
    (_details_start("rbac_access_denied"), errors.MODEL_NOT_ALLOWED),
    # A model's name with control characters, which no header can hold.
    (_details_start("filter_removed_required_request_headers"), errors.MODEL_NOT_FOUND),
    (_details_start("overload"), errors.OVERLOADED),
    (_details_start("local_rate_limited"), errors.ASKED_TOO_OFTEN),
    (_details_start("upgrade_failed"), errors.NO_UPGRADE),
    (_both(_flags("UAEX"), _status(503)), errors.AUTH_UNAVAILABLE),
    (_flags("RLSE"), errors.LIMITS_UNAVAILABLE),
    (_flags("UO"), errors.OVERLOADED),
    (_flags("UH", "UF", "URX", "UC", "UR", "LH", "NC"), errors.BACKEND_UNAVAILABLE),
    (_status(408), errors.REQUEST_TIMEOUT),
    (_flags("UT", "SI", "DT", "UMSDR"), errors.TIMED_OUT),
    (_flags("OM"), errors.OVERLOADED),
    (_flags("NR"), errors.NOT_FOUND),
    (_status(413), errors.REQUEST_TOO_LARGE),
    (_status(426), errors.UPGRADE_REQUIRED),
    (_status(431), errors.HEADERS_TOO_LARGE),
    (_status(501), errors.BAD_REQUEST),  # a Transfer-Encoding that Envoy does not know
    (_status(503), errors.BACKEND_UNAVAILABLE),
)


def _undecided() -> Message:
    """ratelimit_service can only refuse with a 429. Where it decided nothing, its answer lacks only the status."""
    codes = "|".join(error.code for error in (errors.LIMITS_UNAVAILABLE, errors.OVERLOADED, errors.AUTH_UNAVAILABLE))
    matcher = {
        "filter": names.LIMITS,
        "path": [{"key": "error_code"}],
        "value": {"string_match": {"safe_regex": {"regex": codes}}},
    }
    when = {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": False}}
    return {"filter": when, "status_code": 503}


_UNDECIDED = _undecided()


def _mapper(when: Message, error: ClientError) -> Message:
    return {"filter": when, "status_code": error.status, **_answer(error)}


def _anything_else(kind: int) -> Message:
    """What no row names keeps its status: 4xx is the client's mistake, 5xx ours."""
    low, high = kind * 100, kind * 100 + 100
    when = _cel(f"response.code >= {low} && response.code < {high} && !(response.code_details in {_OURS})")
    return {"filter": when, **_answer(errors.BAD_REQUEST if kind == 4 else errors.GATEWAY_ERROR)}


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
