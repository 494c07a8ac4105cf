"""Why the gateway refused a request: the error code that its client was given, read back from what Envoy logs.

Envoy's own refusals are those of `gatehouse.contract.local_errors`; the routes that refuse by themselves are named
after their error code.
"""

from collections.abc import Collection

from gatehouse.contract import errors
from gatehouse.contract.local_errors import error_of

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


def error_code(status: int, details: str, route: str, flags: Collection[str]) -> str | None:
    """The error code of a refusal; None when the request was answered from behind Envoy, or not at all."""
    if status < 400 or details.startswith(_NOT_OURS):
        return None
    if details == "direct_response" and route in _ROUTES:
        return route
    if details == "request_rate_limited":
        return errors.RATE_LIMITED.code
    return error_of(status, details, flags).code
