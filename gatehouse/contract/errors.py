"""The table of all errors that the gateway itself returns to clients.

Every answer has OpenAI's error envelope with FastAPI's `detail` beside it, so that clients of either read it:
`{"error": {"message", "type", "param", "code"}, "detail": message}`. Answers of the model server are never touched.
"""

import json
from dataclasses import dataclass, replace

INVALID_REQUEST = "invalid_request_error"
RATE_LIMIT = "rate_limit_error"
UNAVAILABLE = "service_unavailable_error"


@dataclass(frozen=True, slots=True)
class ClientError:
    """An error as a client sees it. `retry_after_s` becomes a `Retry-After` header."""

    status: int
    type: str
    code: str
    message: str
    param: str | None = None
    retry_after_s: int | None = None

    def with_message(self, message: str) -> "ClientError":
        return replace(self, message=message)

    def body(self) -> dict[str, object]:
        """The JSON object of the response."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error, "detail": self.message}

    def json(self) -> bytes:
        return json.dumps(self.body(), ensure_ascii=False).encode()


INVALID_JSON = ClientError(
    400, INVALID_REQUEST, "invalid_json", "The request body is not valid JSON sent as application/json."
)
INVALID_VALUE = ClientError(400, INVALID_REQUEST, "invalid_value", "")
"""The request reader adds which member is wrong, and why."""
NOT_ALLOWED_HERE = ClientError(400, INVALID_REQUEST, "not_allowed_here", "")
MISSING_MODEL = ClientError(400, INVALID_REQUEST, "missing_model", "You must provide a model parameter.", "model")
MISSING_API_KEY = ClientError(
    401,
    INVALID_REQUEST,
    "missing_api_key",
    "You didn't provide an API key. Send it as 'Authorization: Bearer YOUR_KEY' or 'x-api-key: YOUR_KEY'.",
)
INVALID_API_KEY = ClientError(401, INVALID_REQUEST, "invalid_api_key", "Incorrect API key provided.")
IP_NOT_AUTHORIZED = ClientError(
    401, INVALID_REQUEST, "ip_not_authorized", "Your IP address is not allowed to use this API key."
)
MODEL_NOT_ALLOWED = ClientError(
    403, INVALID_REQUEST, "model_not_allowed", "Your API key may not use this model.", "model"
)
MODEL_NOT_FOUND = ClientError(404, INVALID_REQUEST, "model_not_found", "The model does not exist.", "model")
NOT_FOUND = ClientError(404, INVALID_REQUEST, "not_found", "Unknown request URL.")
METHOD_NOT_ALLOWED = ClientError(405, INVALID_REQUEST, "method_not_allowed", "This URL does not take this method.")
BAD_REQUEST = ClientError(400, INVALID_REQUEST, "bad_request", "The request is not valid HTTP for this server.")
REQUEST_TIMEOUT = ClientError(408, INVALID_REQUEST, "request_timeout", "The request was not sent in time.")
REQUEST_TOO_LARGE = ClientError(413, INVALID_REQUEST, "request_too_large", "The request body is too large.")
TOO_MANY_VALUES = ClientError(413, INVALID_REQUEST, "too_many_values", "")
ENCODED_BODY = ClientError(
    415,
    INVALID_REQUEST,
    "encoded_body",
    "This server does not take encoded request bodies: send the JSON as it is, without Content-Encoding.",
)
UNKNOWN_HOST = ClientError(
    421,
    INVALID_REQUEST,
    "unknown_host",
    "This port is asked by an address, as localhost, or by a name of server.metrics_names.",
)
HTTPS_REQUIRED = ClientError(426, INVALID_REQUEST, "https_required", "This server only answers over HTTPS.")
UPGRADE_REQUIRED = ClientError(426, INVALID_REQUEST, "upgrade_required", "This server needs HTTP/1.1 or HTTP/2.")
NO_UPGRADE = ClientError(
    426,
    INVALID_REQUEST,
    "http_required",
    "This URL is answered over plain HTTP, and not by an upgrade such as to a WebSocket.",
)
HEADERS_TOO_LARGE = ClientError(431, INVALID_REQUEST, "headers_too_large", "The request headers are too large.")
RATE_LIMITED = ClientError(429, RATE_LIMIT, "rate_limit_exceeded", "Rate limit exceeded.")
ASKED_TOO_OFTEN = ClientError(
    429, RATE_LIMIT, "rate_limit_exceeded", "This page is asked for too often. Try again in 1s.", retry_after_s=1
)
TOO_MANY_FAILURES = ClientError(
    429, RATE_LIMIT, "rate_limit_exceeded", "Too many incorrect API keys were sent from your address."
)
INSUFFICIENT_QUOTA = ClientError(429, "insufficient_quota", "insufficient_quota", "The budget is spent.")
GATEWAY_ERROR = ClientError(500, "server_error", "gateway_error", "The gateway could not handle the request.")
AUTH_UNAVAILABLE = ClientError(
    503, UNAVAILABLE, "auth_unavailable", "The authorization service is unavailable.", retry_after_s=1
)
LIMITS_UNAVAILABLE = ClientError(
    503, UNAVAILABLE, "limits_unavailable", "The limits can't be looked up right now.", retry_after_s=1
)
BACKEND_UNAVAILABLE = ClientError(
    503, UNAVAILABLE, "backend_unavailable", "The model server is not available.", retry_after_s=1
)
OVERLOADED = ClientError(
    503, UNAVAILABLE, "server_is_overloaded", "The server is overloaded; try again shortly.", retry_after_s=1
)
TIMED_OUT = ClientError(504, UNAVAILABLE, "timeout", "The model server did not answer in time.", retry_after_s=1)


UPSTREAM_ERROR = "upstream_error"
"""The code, in records and metrics, of a response that began as a success and contained an error. The gateway never
returns it."""

CODES = frozenset({UPSTREAM_ERROR, *(each.code for each in list(globals().values()) if isinstance(each, ClientError))})
"""All codes."""


def too_many_failures(seconds: int) -> ClientError:
    """`TOO_MANY_FAILURES`, with the seconds after which to retry."""
    message = f"{TOO_MANY_FAILURES.message} Check the key and try again in {seconds}s."
    return replace(TOO_MANY_FAILURES, message=message, retry_after_s=seconds)
