"""Whom a key stands for, and what it may be used for: the configuration's `api_keys`, ready to be looked up."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from gatehouse.config.model import ApiKey
from gatehouse.keys.limits_json import canonical
from gatehouse.keys.names import key_id

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, eq=False)
class Principal:
    """The holder of one key, itself a key of dictionaries: no other holder is equal to it.

    `team` is empty when there is none. `models` are patterns of model names. `expires_at` is in Unix seconds. Without
    `networks` the key may be used from everywhere. `limits` are the key's own, as canonical JSON, counted under
    `family`; both are empty where there is nothing to say (see `KeyRecord`).
    """

    digest: str
    user: str
    team: str
    tier: str
    key_id: str
    models: tuple[str, ...] = ("*",)
    expires_at: float = math.inf
    networks: tuple[Network, ...] = ()
    limits: str = ""
    family: str = ""


Principals = Mapping[str, Principal]
"""Principals by the digest of their key."""


def principals(api_keys: Mapping[str, ApiKey]) -> Principals:
    """The look-up table of `api_keys`, which are by digest already."""
    return {digest: _principal(digest, entry) for digest, entry in api_keys.items()}


def _principal(digest: str, entry: ApiKey) -> Principal:
    return Principal(
        digest=digest,
        user=entry.user_id,
        team=entry.team or "",
        tier=entry.tier,
        key_id=key_id(digest, entry),
        models=entry.models,
        expires_at=entry.expires_at.timestamp() if entry.expires_at else math.inf,
        networks=tuple(map(network, entry.allowed_ips)),
        limits=canonical(entry.limits),
    )


def network(written: str) -> Network:
    """`::ffff:10.0.0.0/104` is `10.0.0.0/8`: clients' addresses are compared in their IPv4 form."""
    network = ip_network(written)
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return IPv4Network((mapped, network.prefixlen - 96)) if mapped else network
