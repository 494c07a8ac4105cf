"""Whom a key stands for, and what it may be used for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Protocol

from gatehouse.config.model import ApiKey
from gatehouse.keys.configured import record_of
from gatehouse.keys.record import KeyRecord

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, eq=False)
class Principal:
    """The holder of one key, itself a key of dictionaries: no other holder is equal to it.

    `team` is empty when there is none. `models` are patterns of model names. `expires_at` is in Unix seconds. Without
    `networks` the key may be used from everywhere. `limits` are the key's own, as canonical JSON, counted under
    `family`; both are empty where there is nothing to say (see `KeyRecord`). `only_in_store`: no file has the key.
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
    revoked: bool = False
    only_in_store: bool = False


class Principals(Protocol):
    """Principals by the digest of their key: a dictionary, or a `Keyring`."""

    def get(self, digest: str, /) -> Principal | None: ...


def principals(api_keys: Mapping[str, ApiKey]) -> dict[str, Principal]:
    """The look-up table of `api_keys`, which are by digest already."""
    return {digest: principal(record_of(digest, entry)) for digest, entry in api_keys.items()}


def principal(key: KeyRecord, *, only_in_store: bool = False) -> Principal:
    """Whom `key` stands for."""
    return Principal(
        digest=key.digest,
        user=key.user,
        team=key.team,
        tier=key.tier,
        key_id=key.key_id,
        models=key.models,
        expires_at=key.expires_at,
        networks=tuple(map(network, key.allowed_ips)),
        limits=key.limits,
        family=key.family,
        revoked=key.revoked_at is not None,
        only_in_store=only_in_store,
    )


def network(written: str) -> Network:
    """`::ffff:10.0.0.0/104` is `10.0.0.0/8`: clients' addresses are compared in their IPv4 form."""
    network = ip_network(written)
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return IPv4Network((mapped, network.prefixlen - 96)) if mapped else network
