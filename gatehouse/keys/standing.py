"""What stands when two records speak of one key. Whatever else they say: once revoked, a key stays revoked."""

from dataclasses import replace

from gatehouse.keys.record import KeyRecord

ONLY_RESTRICTS: tuple[str, ...] = ()
"""The models of a record that restricts a key in a file: should the file forget the key, it may use none."""


def replaced(old: KeyRecord | None, new: KeyRecord) -> KeyRecord:
    """What a store keeps when `new` comes in place of `old`."""
    if old is None or old.revoked_at is None or new.revoked_at is not None:
        return new
    return replace(new, revoked_at=old.revoked_at, revoked_because=old.revoked_because, cut=old.cut)


def restricted(key: KeyRecord, by: KeyRecord | None) -> KeyRecord:
    """A key in a file under the record that a store has of the same digest: revoked if that is, and expired as soon."""
    if by is None:
        return key
    soonest = min(key.expires_at, by.expires_at)
    return replace(key, expires_at=soonest, revoked_at=by.revoked_at, revoked_because=by.revoked_because, cut=by.cut)
