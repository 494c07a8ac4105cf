"""Keys that stand in a file, as records like those of a store.

What keys have in common is kept once: of 100,000 keys most share a tier, a team and their models with others.
"""

import math
from functools import lru_cache
from sys import intern

from gatehouse.config.model import ApiKey
from gatehouse.keys.limits_json import canonical
from gatehouse.keys.names import key_id
from gatehouse.keys.record import KeyRecord


def record_of(digest: str, key: ApiKey) -> KeyRecord:
    """The record of a key that a configuration keeps as `digest`."""
    return KeyRecord(
        digest=digest,
        key_id=key_id(digest, key),
        user=intern(key.user_id),
        team=intern(key.team or ""),
        tier=intern(key.tier),
        name=key.name or "",
        models=_shared(key.models),
        expires_at=key.expires_at.timestamp() if key.expires_at else math.inf,
        allowed_ips=_shared(key.allowed_ips),
        limits=intern(canonical(key.limits)),
    )


@lru_cache(4096)
def _shared(texts: tuple[str, ...]) -> tuple[str, ...]:
    return texts
