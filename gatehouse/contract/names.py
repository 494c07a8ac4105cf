"""Names by which Envoy's parts, and the services that read its metadata, refer to each other."""

RUN_DIR = "/run/gatehouse"
"""Where the processes of a gateway find each other, unless they are told otherwise."""

AUTHZ = "envoy.filters.http.ext_authz"
"""Filter, and the metadata namespace with `user, team, tier, key_id, models, …` of the caller."""

CLIENT_IP = "envoy.filters.http.header_mutation"
"""Filter that puts the client's address into a header for authz_service alone."""

CLIENT_IP_HEADER = "x-gatehouse-client-ip"
"""The address as far as `server.trusted_proxy_hops` are trusted."""

LLM = "llm"
"""Metadata namespace with what the bodies say: `model, asks, stream, input_tokens, output_tokens, …`."""

READER = "gatehouse.reader"
"""Filter that reads a request's body (`gatehouse.envoy.request_reader`), and the route metadata with its settings."""

WHOLE_BODY = "envoy.filters.http.buffer"
"""Filter that keeps a body until all of it has been read."""

ANSWERS = "gatehouse.answers"
"""Filter that reads an answer's counts (`gatehouse.envoy.answer_reader`)."""

MODEL_NAME = "envoy.filters.http.set_filter_state"
MODEL_ACCESS = "envoy.filters.http.rbac"
LIMITS = "envoy.filters.http.ratelimit"
TAP = "envoy.filters.http.tap"

CUTTING = "gatehouse.cutting"
"""Filter that ends running streams of revoked keys; there is one only where a key store is."""

OWN_LIMITS = "envoy.filters.http.local_ratelimit"
"""Filter that bounds how often the gateway's own pages are asked; other routes don't have it."""

CORS = "envoy.filters.http.cors"

HTTP_VERSION_HEADER = "x-gatehouse-http-version"
"""How a client speaks (`HTTP/1.1`), for routes to match; nobody else is told."""

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
"""What reaches a model server, by POST. Everything else is 404."""

USAGE_PAGE = ("/usage", "/usage/usage.js", "/usage/page.css", "/usage/icon.svg", "/usage/format.js")
"""The page on which a caller sees its own usage, and what it loads."""

CALLER_HEADERS = {
    "x-gatehouse-models": "models",
    "x-gatehouse-expressions": "expressions",
    "x-gatehouse-key-limits": "key_limits",
    "x-gatehouse-key-family": "key_family",
}
"""Header -> field of the caller's metadata: what the gateway's own pages are told, beside the identity that model
servers get too. Lists come as JSON; what there is none of comes as "-", or not at all."""

ROUTES = "gatehouse"
"""The route configuration that RDS serves."""

OTLP = "otlp"
"""The cluster that traces are sent to, if any are."""

PORTAL = "portal"
"""The cluster that answers the gateway's own routes: portal_service over HTTP."""

SERVICE = "gatehouse"
"""`service.name` of the traces and metrics that are sent by OTLP."""

TRACE_ID_TAG = "trace_id"
"""Custom tag of a log entry; accesslog_service reads it."""

CERTIFICATE = "server"
"""The secret with the certificate of the public port."""

EXPIRY_STAT = f"listener.gatehouse.ssl.certificate.{CERTIFICATE}.expiration_unix_time_seconds"
"""Envoy's gauge of when the certificate it serves ends."""


def model_cluster(model: str) -> str:
    """The cluster of a model's backends."""
    return f"model:{model}"
