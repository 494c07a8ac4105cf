"""Keys that stand in a file, as records like those of a store."""

import math
from collections.abc import Mapping

from gatehouse.config.model import ApiKey
from gatehouse.keys.names import key_id
from gatehouse.keys.record import KeyRecord
from gatehouse.keys.record_json import limits_json


def record_of(digest: str, key: ApiKey) -> KeyRecord:
    """The record of a key that a configuration keeps as `digest`."""
    return KeyRecord(
        digest=digest,
        key_id=key_id(digest, key),
        user=key.user_id,
        team=key.team or "",
        tier=key.tier,
        name=key.name or "",
        models=key.models,
        expires_at=key.expires_at.timestamp() if key.expires_at else math.inf,
        allowed_ips=key.allowed_ips,
        limits=limits_json(key.limits),
    )


def records_of(keys: Mapping[str, ApiKey]) -> dict[str, KeyRecord]:
    """By digest."""
    return {digest: record_of(digest, key) for digest, key in keys.items()}
