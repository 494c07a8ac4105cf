"""Creates, rotates and revokes keys. Records in, records out; times are Unix seconds."""

import math
from dataclasses import dataclass, replace

from gatehouse.config.model import ApiKey
from gatehouse.keys.configured import record_of
from gatehouse.keys.record import KeyRecord
from gatehouse.keys.standing import ONLY_RESTRICTS

LEAKED, REVOKED = "leaked", "revoked"
"""Why a key was revoked."""


@dataclass(frozen=True, slots=True)
class Birth:
    """The identity of a new key: its id and digest, when it was made and by whom."""

    key_id: str
    digest: str
    at: float
    by: str


def created(settings: ApiKey, birth: Birth) -> KeyRecord:
    """The record of a new key with `settings`."""
    record = record_of(birth.digest, settings)
    return replace(record, key_id=birth.key_id, created_at=birth.at, created_by=birth.by)


def successor(of: KeyRecord, birth: Birth, expires_at: float | None) -> KeyRecord:
    """The successor of `of`: same holder, rights, limits, counters and expiry."""
    return replace(
        of,
        key_id=birth.key_id,
        digest=birth.digest,
        created_at=birth.at,
        created_by=birth.by,
        expires_at=of.expires_at if expires_at is None else expires_at,
        family=of.family or of.key_id,
    )


def expiring(key: KeyRecord, at: float, *, in_file: bool) -> KeyRecord:
    """`key`, expiring at `at` at the latest; for one in a file, the record that makes it expire."""
    return replace(_own(key, in_file=in_file), expires_at=min(key.expires_at, at))


def revoked(key: KeyRecord, at: float, because: str, *, cut: bool, in_file: bool) -> KeyRecord:
    """`key`, revoked at `at`, or when it was before; `cut` ends its running streams, too. What leaked stays leaked."""
    if key.revoked_at is not None:
        at, because = key.revoked_at, LEAKED if key.revoked_because == LEAKED else because
    return replace(_own(key, in_file=in_file), revoked_at=at, revoked_because=because, cut=cut or key.cut)


def _own(key: KeyRecord, *, in_file: bool) -> KeyRecord:
    return replace(key, models=ONLY_RESTRICTS) if in_file else key


def status(key: KeyRecord, now: float) -> str:
    """`active`, `revoked`, `expired`."""
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if now >= key.expires_at else "active"


def is_stale(key: KeyRecord, last_used: float | None, since: float) -> bool:
    """Whether `key` was not used since then, nor made."""
    return max(last_used or 0.0, key.created_at) < since


def is_expiring(key: KeyRecord, now: float, before: float) -> bool:
    return now < key.expires_at < min(before, math.inf)
