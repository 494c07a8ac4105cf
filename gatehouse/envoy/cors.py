"""Lets pages of other sites call the gateway from a browser (`server.cors`): Envoy's CORS filter.

It answers preflights itself, before any key is checked; a preflight of another origin gets a 404, as without it.
https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from gatehouse.config.model import Server
from gatehouse.contract import names
from gatehouse.envoy.message import Message, extension, typed

_ALLOWED_METHODS = "GET, POST, DELETE"
_ALLOWED_HEADERS = "*, authorization"
"""Any header; the specification requires `authorization` to be named. Keys are not cookies, so no credentials."""
_EXPOSED_HEADERS = (
    "x-request-id, retry-after, retry-after-ms, "
    "x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    "x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)
_MAX_AGE_S = 7200


def filters(server: Server) -> list[Message]:
    """The filter, if origins are configured."""
    return [extension(names.CORS, "envoy.extensions.filters.http.cors.v3.Cors")] if server.cors else []


def policy(server: Server) -> Message:
    """Fields of a virtual host."""
    if not server.cors:
        return {}
    origins: list[Message] = [
        {"safe_regex": {"regex": ".*"}} if origin == "*" else {"exact": origin} for origin in server.cors
    ]
    config = typed(
        "envoy.extensions.filters.http.cors.v3.CorsPolicy",
        allow_origin_string_match=origins,
        allow_methods=_ALLOWED_METHODS,
        allow_headers=_ALLOWED_HEADERS,
        expose_headers=_EXPOSED_HEADERS,
        max_age=str(_MAX_AGE_S),
    )
    return {"typed_per_filter_config": {names.CORS: config}}
