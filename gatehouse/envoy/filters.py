"""The HTTP filters, in the order a request meets them (an answer meets them in reverse).

1. body_size_limit: rejects larger bodies.
2. header_mutation: adds the client's address, for ext_authz.
3. ext_authz: identifies the caller by headers alone, so that the body of an unknown caller is never read, and no
   `100 Continue` asks for it (`expect_continue`).
   local_ratelimit: limits requests to the gateway's own pages, and no others.
4. Lua: reads what the body asks for; passes it on as it arrives, and changes it where needed.
   buffer: holds it until it is complete.
   set_filter_state: stores the model, for the look-up of its route.
5. RBAC: checks that the caller may use the model.
6. ratelimit: one call with everything the limits depend on.
   tap, if `logging.bodies` is on: copies bodies of selected requests.
   Lua, if there is a key store: ends streams of revoked keys.
7. Lua: reads what the answer has used, and hides usage that the client did not ask for.
8. router.
"""

from collections.abc import Sequence

from gatehouse.contract import names
from gatehouse.envoy import answer_reader, model_access, model_lookup, own_limits, request_reader
from gatehouse.envoy.message import Message, extension, header, seconds

AUTHZ_TIMEOUT_S = 1.6
"""On a busy machine a check waits, and its request with it; without an answer it fails within two seconds."""
AUTHZ_HEDGE_AFTER_S = 0.15
"""After this, a worker is slow, or hangs: another is called as well, and the first answer counts."""
LIMITS_TIMEOUT_S = 2.0
"""All tries together. Envoy waits for a busy service, and knows by health checks and refused connections when it is
down; so a slow limiter lets nothing pass the limits."""


LIMITS_TRY_TIMEOUT_S = 1.0
"""Longer than a worker waits for a late Redis (three of `redis.timeout_ms`): one that takes longer hangs, and another
is called, if there is one that shares its counts."""


def chain(max_body_bytes: int, optional: Sequence[Message] = (), *, limiters: int = 1) -> list[Message]:
    """All HTTP filters.

    `optional` are those after ratelimit that only some configurations need; `limiters` is how many workers of ratelimit
    share their counts.

    Nothing here depends on models or keys, so that changing those does not touch the listener.
    """
    return [
        extension(
            "envoy.filters.http.body_size_limit",
            "envoy.extensions.filters.http.body_size_limit.v3.BodySizeLimit",
            max_request_bytes=max_body_bytes,
        ),
        _client_ip(),
        _authz(),
        own_limits.filter_(),
        *request_reader.filters(max_body_bytes),
        model_lookup.name_filter(),
        model_access.by_requested_name(),
        _limits(limiters),
        *optional,
        answer_reader.filter_(),
        extension(
            "envoy.filters.http.router",
            "envoy.extensions.filters.http.router.v3.Router",
            suppress_envoy_headers=True,
        ),
    ]


def _client_ip() -> Message:
    """Adds the client's address for ext_authz, which sends only the connection's: behind a proxy, that is the proxy."""
    address = header(names.CLIENT_IP_HEADER, "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%")
    return extension(
        names.CLIENT_IP,
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
        mutations={"request_mutations": [{"append": address}]},
    )


def _authz() -> Message:
    """The call of a sidecar can be hedged by headers only, which Envoy's router removes.

    https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter
    """
    return extension(
        names.AUTHZ,
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        transport_api_version="V3",
        grpc_service={
            **_sidecar("authz"),
            "timeout": seconds(AUTHZ_TIMEOUT_S),
            "initial_metadata": [
                {"key": "x-envoy-hedge-on-per-try-timeout", "value": "true"},
                {"key": "x-envoy-upstream-rq-per-try-timeout-ms", "value": str(int(AUTHZ_HEDGE_AFTER_S * 1000))},
            ],
        },
        failure_mode_allow=False,
        status_on_error={"code": "ServiceUnavailable"},
        allowed_headers={
            "patterns": [{"exact": name} for name in ("authorization", "x-api-key", names.CLIENT_IP_HEADER)]
        },
        validate_mutations=True,
    )


def _limits(limiters: int) -> Message:
    # An action without a value would drop the whole descriptor, and with it the call: hence the defaults.
    actions = [
        _metadata_entry("user", names.AUTHZ, "user"),
        _metadata_entry("team", names.AUTHZ, "team"),
        _metadata_entry("tier", names.AUTHZ, "tier"),
        _metadata_entry("key_id", names.AUTHZ, "key_id"),
        _metadata_entry("key_limits", names.AUTHZ, "key_limits"),
        _metadata_entry("key_family", names.AUTHZ, "key_family"),
        _metadata_entry("model", names.LLM, "model"),
        _metadata_entry("asks", names.LLM, "asks"),
        _header_entry("request_id", "x-request-id"),
    ]
    return extension(
        names.LIMITS,
        "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
        domain=names.DOMAIN,
        timeout=seconds(LIMITS_TIMEOUT_S),
        failure_mode_deny=True,
        status_on_error={"code": "ServiceUnavailable"},
        rate_limit_service={
            "grpc_service": {**_sidecar("ratelimit"), **(_TRY_TIMEOUT if limiters > 1 else {})},
            "transport_api_version": "V3",
        },
        rate_limits=[{"actions": actions}],
    )


_TRY_TIMEOUT: Message = {
    "initial_metadata": [
        {"key": "x-envoy-upstream-rq-per-try-timeout-ms", "value": str(int(LIMITS_TRY_TIMEOUT_S * 1000))}
    ]
}
"""Only this header sets the time-out of one try of a sidecar's call; Envoy's router removes it."""


def _sidecar(service: str) -> Message:
    """The call of a sidecar. For each request Envoy compares this message, field by field, with all configured ones to
    find its client: so it is short, and retries are configured in the cluster."""
    return {"envoy_grpc": {"cluster_name": service, "skip_envoy_headers": True}}


def _metadata_entry(key: str, namespace: str, field: str) -> Message:
    source = {"key": namespace, "path": [{"key": field}]}
    return {"metadata": {"descriptor_key": key, "metadata_key": source, "default_value": "-"}}


def _header_entry(key: str, header: str) -> Message:
    return {"request_headers": {"descriptor_key": key, "header_name": header, "skip_if_absent": True}}
