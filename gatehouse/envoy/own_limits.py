"""Limits requests to the gateway's own pages and API: the service that answers them also writes the records.

Envoy counts by itself, in token buckets: unknown callers by their address (as far as `server.trusted_proxy_hops` are
trusted), callers of the API by their user. The limits of tiers are for requests to model servers.
"""

from gatehouse.contract import names
from gatehouse.envoy.message import Message, extension, typed

_PER_ADDRESS = (500, 50)
"""Burst, and requests per second after it. Load balancers request `/health` far less often."""
_PER_USER = (2000, 200)
_MOST_COUNTED = 4096
"""Addresses or users; beyond this, the least recently seen is dropped."""

_TYPE = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
_ALL: Message = {"default_value": {"numerator": 100}}


def filter_() -> Message:
    """The filter, disabled unless a route enables it."""
    return {**extension(names.OWN_LIMITS, _TYPE, stat_prefix="own"), "disabled": True}


def per_address() -> Message:
    """`typed_per_filter_config` of a public page."""
    return _by("remote_address", {"remote_address": {}}, _PER_ADDRESS)


def per_user() -> Message:
    """`typed_per_filter_config` of a path for known callers only."""
    source = {"key": names.AUTHZ, "path": [{"key": "user"}]}
    action = {"metadata": {"descriptor_key": "user", "metadata_key": source, "default_value": "-"}}
    return _by("user", action, _PER_USER)


def _by(key: str, action: Message, limit: tuple[int, int]) -> Message:
    at_once, per_second = limit
    bucket = {"max_tokens": at_once, "tokens_per_fill": per_second, "fill_interval": "1s"}
    config = typed(
        _TYPE,
        stat_prefix="own",
        token_bucket=bucket,  # for requests that match no descriptor
        always_consume_default_token_bucket=False,
        filter_enabled=_ALL,
        filter_enforced=_ALL,
        rate_limits=[{"actions": [action]}],
        descriptors=[{"entries": [{"key": key}], "token_bucket": bucket}],
        max_dynamic_descriptors=_MOST_COUNTED,
    )
    return {names.OWN_LIMITS: config}
