"""Names by which Envoy's parts, and the services that read its metadata, refer to each other."""

RUN_DIR = "/run/gatehouse"
"""The default run directory."""

AUTHZ = "envoy.filters.http.ext_authz"
"""Filter, and the metadata namespace with `user, team, tier, key_id, models, …` of the caller."""

CLIENT_IP = "envoy.filters.http.header_mutation"
"""Filter that puts the client's address into a header, which only authz_service gets."""

CLIENT_IP_HEADER = "x-gatehouse-client-ip"
"""The client's address, according to `server.trusted_proxy_hops`."""

LLM = "llm"
"""Metadata namespace with values from the bodies: `model, asks, stream, input_tokens, output_tokens, …`."""

READER = "gatehouse.reader"
"""Filter that reads a request's body (`gatehouse.envoy.request_reader`), and the route metadata with its settings."""

WHOLE_BODY = "envoy.filters.http.buffer"
"""Filter that buffers a body until it is complete."""

ANSWERS = "gatehouse.answers"
"""Filter that reads a response's token counts (`gatehouse.envoy.answer_reader`)."""

MODEL_NAME = "envoy.filters.http.set_filter_state"
MODEL_ACCESS = "envoy.filters.http.rbac"
LIMITS = "envoy.filters.http.ratelimit"
TAP = "envoy.filters.http.tap"

CUTTING = "gatehouse.cutting"
"""Filter that ends running streams of revoked keys; only rendered with a key store."""

OWN_LIMITS = "envoy.filters.http.local_ratelimit"
"""Filter that limits the rate of requests to the gateway's own pages; other routes don't have it."""

CORS = "envoy.filters.http.cors"

HTTP_VERSION_HEADER = "x-gatehouse-http-version"
"""The client's protocol (`HTTP/1.1`), for route matches; removed before forwarding."""

DOMAIN = "gatehouse"
"""The rate limit domain of the gateway's own descriptors."""

ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/rerank",
    "/v1/score",
    "/tokenize",
    "/detokenize",
)
"""The paths forwarded to a model server, by POST. Everything else is 404."""

USAGE_PAGE = ("/usage", "/usage/usage.js", "/usage/page.css", "/usage/icon.svg", "/usage/format.js")
"""The page on which a caller sees its own usage, and the files it loads."""

CALLER_HEADERS = {
    "x-gatehouse-models": "models",
    "x-gatehouse-expressions": "expressions",
    "x-gatehouse-key-limits": "key_limits",
    "x-gatehouse-key-family": "key_family",
}
"""Header -> field of the caller's metadata: sent to the gateway's own pages, beside the identity that model servers get
too. Lists are JSON; an empty field is "-", or its header is missing."""

ROUTES = "gatehouse"
"""The route configuration that RDS serves."""

OTLP = "otlp"
"""The cluster that traces are sent to, if tracing is on."""

PORTAL = "portal"
"""The cluster that answers the gateway's own routes: portal_service over HTTP."""

SERVICE = "gatehouse"
"""`service.name` of the traces and metrics that are sent by OTLP."""

TRACE_ID_TAG = "trace_id"
"""Custom tag of a log entry; accesslog_service reads it."""

CERTIFICATE = "server"
"""The secret with the certificate of the public port."""

EXPIRY_STAT = f"listener.gatehouse.ssl.certificate.{CERTIFICATE}.expiration_unix_time_seconds"
"""Envoy's gauge of when the certificate it serves expires."""


def model_cluster(model: str) -> str:
    """The cluster of a model's backends."""
    return f"model:{model}"
