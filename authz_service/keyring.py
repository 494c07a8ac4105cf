"""Every key a worker knows: those in files, and those of the key store, which also restricts the ones in files.

Records live in two dictionaries; a principal is built when its key is first used, and cached while it is in use. So a
change of one key costs as little among 100,000 as among ten.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping

from authz_service.principals import Principal, principal
from gatehouse.keys.record import KeyRecord
from gatehouse.keys.standing import ONLY_RESTRICTS, replaced, restricted
from gatehouse.keys.store import Change

log = logging.getLogger(__name__)

IN_USE = 4096
"""Principals to cache."""

_Made = tuple[KeyRecord | None, KeyRecord | None, Principal | None]
"""A principal, and the records in file and store that it was built from."""


class Keyring:
    """Principals by digest. With a store (`max_stale_s` is not None) a digest unknown here may still be in the store.

    `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        listed: Mapping[str, KeyRecord],
        max_stale_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._listed = listed
        self._stored: dict[str, KeyRecord] = {}
        self._max_stale_s = max_stale_s
        self._clock = clock
        self._cut: set[str] = set()
        self._in_touch_until = -math.inf  # with the store; infinite while it talks to us
        self._made: dict[str, _Made] = {}

    def get(self, digest: str) -> Principal | None:
        """The principal whose key has this digest."""
        listed, stored = self._listed.get(digest), self._stored.get(digest)
        if listed is None and stored is None:
            return None
        made = self._made.get(digest)
        if made is None or made[0] is not listed or made[1] is not stored:
            made = self._make(digest, listed, stored)
        return made[2]

    def _make(self, digest: str, listed: KeyRecord | None, stored: KeyRecord | None) -> "_Made":
        """Records are compared by identity, not by content: hashing one takes as long as a decision."""
        made = listed, stored, _principal(listed, stored)
        self._made.pop(digest, None)
        if len(self._made) >= IN_USE:
            del self._made[next(iter(self._made))]  # the one that was made first
        self._made[digest] = made
        return made

    def age_s(self) -> float:
        """Seconds since the store last answered; 0 while connected, or without a store."""
        return 0.0 if self._max_stale_s is None else max(0.0, self._clock() - self._in_touch_until)

    @property
    def stale(self) -> bool:
        """Whether the store has been silent for too long for its keys to be trusted."""
        return self._max_stale_s is not None and self.age_s() > self._max_stale_s

    def adopt(self, listed: Mapping[str, KeyRecord]) -> None:
        """Replace the keys from files, all at once."""
        self._listed = listed

    def recall(self, records: Iterable[KeyRecord]) -> None:
        """Restrict keys in files by these saved `records` until the store answers."""
        self._stored |= {record.digest: record for record in records}

    def restrictions(self) -> list[KeyRecord]:
        """The store's records of keys that are also in files."""
        both = self._listed.keys() & self._stored.keys()
        return [self._stored[digest] for digest in sorted(both)]

    @property
    def cut(self) -> frozenset[str]:
        """The ids of keys whose running streams must end."""
        return frozenset(self._cut)

    def apply(self, change: Change) -> None:
        """Apply a change from the store. A key that was once revoked stays revoked, whatever the store says."""
        self._in_touch_until = math.inf
        self._cut |= {record.key_id for record in change.records.values() if record and record.cut}
        if change.complete:
            before, self._stored = self._stored, {d: record for d, record in change.records.items() if record}
            self._still_revoked(before)
            return
        for digest, record in change.records.items():
            old = self._stored.get(digest)
            if record is not None:
                self._stored[digest] = replaced(old, record)
            elif old is not None and old.revoked_at is None:
                del self._stored[digest]

    def lose_touch(self) -> None:
        """The store does not answer."""
        self._in_touch_until = min(self._in_touch_until, self._clock())

    def _still_revoked(self, before: Mapping[str, KeyRecord]) -> None:
        """A store that comes back with fewer records must not revive keys, above all those in files."""
        for digest, old in before.items():
            now = self._stored.get(digest)
            if old.revoked_at is not None and (now is None or now.revoked_at is None):
                log.warning("the key store has lost the revocation of key %s; it stays revoked here", old.key_id)
                self._stored[digest] = replaced(old, now) if now else old


def _principal(listed: KeyRecord | None, stored: KeyRecord | None) -> Principal | None:
    """The principal of two records of one digest."""
    if listed is not None:
        return principal(restricted(listed, stored))
    if stored is None or stored.models == ONLY_RESTRICTS:
        return None
    return principal(stored, only_in_store=True)
