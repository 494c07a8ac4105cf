"""Pages of other sites that may call the gateway from a browser (`server.cors`): Envoy's CORS filter.

It answers preflights itself, before anybody is asked about a key; a preflight from elsewhere is 404, as without it.
https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from gatehouse.config.model import Server
from gatehouse.contract import names
from gatehouse.envoy.message import Message, extension, typed

_METHODS = "GET, POST, DELETE"
_HEADERS = "*, authorization"
"""All that a page sends; the specification wants `authorization` named. Keys are no cookies: no credentials."""
_SHOWN = (
    "x-request-id, retry-after, retry-after-ms, "
    "x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    "x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)
_MAX_AGE_S = 7200


def filters(server: Server) -> list[Message]:
    """The filter, where origins are configured."""
    return [extension(names.CORS, "envoy.extensions.filters.http.cors.v3.Cors")] if server.cors else []


def policy(server: Server) -> Message:
    """What goes into a virtual host."""
    if not server.cors:
        return {}
    origins: list[Message] = [
        {"safe_regex": {"regex": ".*"}} if origin == "*" else {"exact": origin} for origin in server.cors
    ]
    config = typed(
        "envoy.extensions.filters.http.cors.v3.CorsPolicy",
        allow_origin_string_match=origins,
        allow_methods=_METHODS,
        allow_headers=_HEADERS,
        expose_headers=_SHOWN,
        max_age=str(_MAX_AGE_S),
    )
    return {"typed_per_filter_config": {names.CORS: config}}
