"""Merges two records of one key. Once revoked, a key stays revoked."""

from dataclasses import replace

from gatehouse.keys.record import KeyRecord

ONLY_RESTRICTS: tuple[str, ...] = ()
"""The models of a record that restricts a key in a file: should the file forget the key, it may use none."""


def replaced(old: KeyRecord | None, new: KeyRecord) -> KeyRecord:
    """The record to store when `new` replaces `old`."""
    if old is None or old.revoked_at is None:
        return new
    since = old.revoked_at if new.revoked_at is None else min(old.revoked_at, new.revoked_at)
    because = new.revoked_because or old.revoked_because
    return replace(new, revoked_at=since, revoked_because=because, cut=old.cut or new.cut)


def restricted(key: KeyRecord, by: KeyRecord | None) -> KeyRecord:
    """A key in a file, restricted by the store's record of the same digest: its revocation and expiry apply."""
    if by is None:
        return key
    soonest = min(key.expires_at, by.expires_at)
    return replace(key, expires_at=soonest, revoked_at=by.revoked_at, revoked_because=by.revoked_because, cut=by.cut)
