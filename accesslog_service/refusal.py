"""Why the gateway refused a request: the error code that its client was given, read back from what Envoy logs.

Envoy's local replies say why in `%RESPONSE_CODE_DETAILS%` and `%RESPONSE_FLAGS%` (Envoy documentation, "Response Code
Details", "Substitution format"); the routes that refuse by themselves are named after their error code.
"""

from collections.abc import Collection

from gatehouse.contract import errors

_NOT_OURS = ("via_upstream", "upstream_reset_after_response_started", "downstream_")
"""How the details of an answer begin that came from behind Envoy, or that the client did not wait for."""

_ROUTES = frozenset(
    error.code
    for error in (
        errors.MISSING_MODEL,
        errors.INVALID_VALUE,
        errors.NOT_ALLOWED_HERE,
        errors.TOO_MANY_VALUES,
        errors.ENCODED_BODY,
        errors.GATEWAY_ERROR,
        errors.INVALID_JSON,
        errors.MODEL_NOT_FOUND,
        errors.NOT_FOUND,
        errors.HTTPS_REQUIRED,
        errors.REQUEST_TOO_LARGE,
    )
)

_DETAILS = (
    ("rbac_access_denied", errors.MODEL_NOT_ALLOWED),
    ("filter_removed_required_request_headers", errors.MODEL_NOT_FOUND),
    ("overload", errors.OVERLOADED),
    ("ext_authz_error", errors.AUTH_UNAVAILABLE),
    ("request_rate_limited", errors.RATE_LIMITED),
)
"""How the details begin -> the error. What follows names a policy or a filter."""

_FLAGS = (
    ({"RLSE"}, errors.LIMITS_UNAVAILABLE),
    ({"UO"}, errors.OVERLOADED),
    ({"UH", "UF", "URX", "UC", "UR", "LH", "NC"}, errors.BACKEND_UNAVAILABLE),
    ({"UT", "SI", "DT", "UMSDR"}, errors.TIMED_OUT),
    ({"OM"}, errors.OVERLOADED),
    ({"NR"}, errors.NOT_FOUND),
)
"""First match wins, in the order of the local replies (`gatehouse.envoy.local_replies`)."""

_STATUS = {
    error.status: error
    for error in (
        errors.REQUEST_TIMEOUT,
        errors.REQUEST_TOO_LARGE,
        errors.UPGRADE_REQUIRED,
        errors.HEADERS_TOO_LARGE,
        errors.BACKEND_UNAVAILABLE,
    )
}


def error_code(status: int, details: str, route: str, flags: Collection[str]) -> str | None:
    """The error code of a refusal; None when the request was answered from behind Envoy, or not at all."""
    if status < 400 or details.startswith(_NOT_OURS):
        return None
    if details == "direct_response" and route in _ROUTES:
        return route
    for beginning, error in _DETAILS:
        if details.startswith(beginning):
            return error.code
    for letters, error in _FLAGS:
        if not letters.isdisjoint(flags):
            return error.code
    return _STATUS.get(status, errors.BAD_REQUEST if status < 500 else errors.GATEWAY_ERROR).code
