"""How often the gateway's own pages and API may be asked: what answers them also writes the records.

Envoy counts by itself, in token buckets: strangers by their address (as far as `server.trusted_proxy_hops` are
trusted), callers of the API by their user. The limits of tiers are for what reaches a model server.
"""

from gatehouse.contract import names
from gatehouse.envoy.message import Message, extension, typed

STRANGERS = (500, 50)
"""At once, and a second from then on. Load balancers ask for `/health` less often by far."""
CALLERS = (2000, 200)
MOST_COUNTED = 4096
"""Addresses or users; beyond, who was not seen for longest is forgotten."""

_TYPE = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
_ALL: Message = {"default_value": {"numerator": 100}}


def idle_filter() -> Message:
    """The filter, which does nothing where a route does not ask for it."""
    return {**extension(names.OWN_LIMITS, _TYPE, stat_prefix="own"), "disabled": True}


def of_strangers() -> Message:
    """`typed_per_filter_config` of a page for anyone."""
    return _by("remote_address", {"remote_address": {}}, STRANGERS)


def of_callers() -> Message:
    """The same of what only known callers may ask."""
    source = {"key": names.AUTHZ, "path": [{"key": "user"}]}
    action = {"metadata": {"descriptor_key": "user", "metadata_key": source, "default_value": "-"}}
    return _by("user", action, CALLERS)


def _by(key: str, action: Message, limit: tuple[int, int]) -> Message:
    at_once, per_second = limit
    bucket = {"max_tokens": at_once, "tokens_per_fill": per_second, "fill_interval": "1s"}
    config = typed(
        _TYPE,
        stat_prefix="own",
        token_bucket=bucket,  # for what can't be told apart
        always_consume_default_token_bucket=False,
        filter_enabled=_ALL,
        filter_enforced=_ALL,
        rate_limits=[{"actions": [action]}],
        descriptors=[{"entries": [{"key": key}], "token_bucket": bucket}],
        max_dynamic_descriptors=MOST_COUNTED,
    )
    return {names.OWN_LIMITS: config}
