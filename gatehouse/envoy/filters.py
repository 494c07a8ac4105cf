"""The HTTP filters, in the order a request meets them (an answer meets them in reverse).

1. body_size_limit: not more than this.
2. header_mutation: the client's address, for the next.
3. ext_authz: who is this? Headers only, so that a stranger's body is never asked for, nor one that waits for
   a `100 Continue` (`expecting`).
   local_ratelimit: how often the gateway's own pages may be asked, and nothing else.
4. Lua: what the body asks for; it is passed on as it comes, and changed where it must be.
   buffer: keeps it until all of it is here.
   set_filter_state: the model, where its route is looked up.
5. RBAC: may this caller use this model?
6. ratelimit: one call with everything the limits depend on.
   tap, where `logging.bodies` asks for it: bodies of chosen requests.
   Lua, where there is a key store: end streams of revoked keys.
7. Lua: what the answer has used; usage that the client did not ask for is hidden.
8. router.
"""

from collections.abc import Sequence

from gatehouse.contract import names
from gatehouse.envoy import answer_reader, model_access, model_lookup, own_limits, request_reader
from gatehouse.envoy.message import Message, extension, header, seconds

AUTHZ_TIMEOUT_S = 1.6
"""A busy machine makes a check wait, and its request with it; who waits in vain is told within two seconds."""
AUTHZ_PATIENCE_S = 0.15
"""A worker that has not answered by then is slow, or hangs: another is asked as well, and the first answer counts."""
LIMITS_TIMEOUT_S = 2.0
"""All tries together. A service that is busy is waited for, and one that is away is known to be, by its health checks
and by connections that are refused; so to be late is no way past the limits."""


LIMITS_TRY_TIMEOUT_S = 1.0
"""Longer than a worker waits for a late Redis (three of `redis.timeout_ms`): one that takes longer than this hangs, and
another is asked, if there is one that counts the same."""


def chain(max_body_bytes: int, wanted: Sequence[Message] = (), *, limiters: int = 1) -> list[Message]:
    """Every HTTP filter; `wanted` are those behind ratelimit that not every configuration asks for, and
    `limiters` is how many workers of ratelimit share their counts.

    Nothing in it depends on models or keys, so that changing those leaves the listener alone.
    """
    return [
        extension(
            "envoy.filters.http.body_size_limit",
            "envoy.extensions.filters.http.body_size_limit.v3.BodySizeLimit",
            max_request_bytes=max_body_bytes,
        ),
        _client_ip(),
        _authz(),
        own_limits.idle_filter(),
        *request_reader.filters(max_body_bytes),
        model_lookup.name_filter(),
        model_access.by_requested_name(),
        _limits(limiters),
        *wanted,
        answer_reader.filter_(),
        extension(
            "envoy.filters.http.router",
            "envoy.extensions.filters.http.router.v3.Router",
            suppress_envoy_headers=True,
        ),
    ]


def _client_ip() -> Message:
    """A check says whose connection it is, which behind a proxy is the proxy's; so it is told who the client is."""
    told = header(names.CLIENT_IP_HEADER, "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%")
    return extension(
        names.CLIENT_IP,
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
        mutations={"request_mutations": [{"append": told}]},
    )


def _authz() -> Message:
    """The call of a sidecar can be hedged by headers only; Envoy's router takes them off again.

    https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter
    """
    return extension(
        names.AUTHZ,
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        transport_api_version="V3",
        grpc_service={
            **_called("authz"),
            "timeout": seconds(AUTHZ_TIMEOUT_S),
            "initial_metadata": [
                {"key": "x-envoy-hedge-on-per-try-timeout", "value": "true"},
                {"key": "x-envoy-upstream-rq-per-try-timeout-ms", "value": str(int(AUTHZ_PATIENCE_S * 1000))},
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
            "grpc_service": {**_called("ratelimit"), **(_TRIES if limiters > 1 else {})},
            "transport_api_version": "V3",
        },
        rate_limits=[{"actions": actions}],
    )


_TRIES: Message = {
    "initial_metadata": [
        {"key": "x-envoy-upstream-rq-per-try-timeout-ms", "value": str(int(LIMITS_TRY_TIMEOUT_S * 1000))}
    ]
}
"""The time of one try of a sidecar's call is set by this header only, which Envoy's router takes off again."""


def _called(service: str) -> Message:
    """A sidecar, called. For each request Envoy compares this message with all that it was configured with, field by
    field, to find its client: so it is short, and when a call is repeated stands in the cluster."""
    return {"envoy_grpc": {"cluster_name": service, "skip_envoy_headers": True}}


def _metadata_entry(key: str, namespace: str, field: str) -> Message:
    source = {"key": namespace, "path": [{"key": field}]}
    return {"metadata": {"descriptor_key": key, "metadata_key": source, "default_value": "-"}}


def _header_entry(key: str, header: str) -> Message:
    return {"request_headers": {"descriptor_key": key, "header_name": header, "skip_if_absent": True}}
