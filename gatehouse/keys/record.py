"""The record of a key: its holder, rights and expiry. It holds the key's digest, never the key itself."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key. Times are Unix seconds.

    `digest` is `sha256:HEX`, or `hmac-sha256:VERSION:HEX` where a pepper is configured (see `digest`). `models` are
    patterns with `*` and `?`; without `allowed_ips` the key may be used from everywhere. `limits` is the canonical JSON
    of the key's own limits, empty when it has none. `family` is the id of the first of the keys that rotation made of
    each other: counters of the key's own limits go by it, so that a successor goes on where its predecessor was.
    `cut`: its running streams must end, too (`revoke --now`).
    """

    digest: str
    key_id: str
    user: str
    team: str = ""
    tier: str = "standard"
    name: str = ""
    models: tuple[str, ...] = ("*",)
    expires_at: float = math.inf
    allowed_ips: tuple[str, ...] = ()
    limits: str = ""
    family: str = ""
    created_at: float = 0.0
    created_by: str = ""
    revoked_at: float | None = None
    revoked_because: str = ""
    cut: bool = False
