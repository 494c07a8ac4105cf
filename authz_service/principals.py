"""Whom a key stands for, and what it may be used for: the configuration's `api_keys`, ready to be looked up."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from gatehouse.config.model import ApiKey
from gatehouse.keys.names import key_id

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, eq=False)
class Principal:
    """The holder of one key, itself a key of dictionaries: no other holder is equal to it.

    `team` is empty when there is none. `models` is a regular expression over model names. `expires_at` is in Unix
    seconds. Without `networks` the key may be used from everywhere.
    """

    digest: str
    user: str
    team: str
    tier: str
    key_id: str
    models: str
    expires_at: float = math.inf
    networks: tuple[Network, ...] = ()


Principals = Mapping[str, Principal]
"""Principals by the digest of their key."""


def principals(api_keys: Mapping[str, ApiKey]) -> Principals:
    """The look-up table of `api_keys`, which are by digest already."""
    return {digest: _principal(digest, entry) for digest, entry in api_keys.items()}


def models_regex(patterns: Iterable[str]) -> str:
    r"""One anchored regular expression for model patterns in which `*` and `?` are wildcards and all else is literal.

    `["llama-*", "gpt-4o"]` gives `^(?s:llama\-.*|gpt\-4o)$`. RE2 (Envoy's) and Python's `re.fullmatch` read it alike.
    """
    return f"^(?s:{'|'.join(map(_pattern_regex, patterns))})$"


def _pattern_regex(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")


def _principal(digest: str, entry: ApiKey) -> Principal:
    return Principal(
        digest=digest,
        user=entry.user_id,
        team=entry.team or "",
        tier=entry.tier,
        key_id=key_id(digest, entry),
        models=models_regex(entry.models),
        expires_at=entry.expires_at.timestamp() if entry.expires_at else math.inf,
        networks=tuple(map(_network, entry.allowed_ips)),
    )


def _network(written: str) -> Network:
    """`::ffff:10.0.0.0/104` is `10.0.0.0/8`: clients' addresses are compared in their IPv4 form."""
    network = ip_network(written)
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return IPv4Network((mapped, network.prefixlen - 96)) if mapped else network
