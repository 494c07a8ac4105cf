"""The key store port: keys made at run time, and restrictions of keys in files.

A record whose digest is also in a file only restricts that key: it may be revoked, or expire sooner.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gatehouse.contract.failures import GatehouseError
from gatehouse.keys.record import KeyRecord


class KeyStoreUnavailable(GatehouseError):  # noqa: N818 - it names a state of the store, and reads so where it is caught
    """The store can't be read, or rejected a change. The message says why and what to do; it holds no secret."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of some keys: by digest, the new record, or None where it was deleted.

    `complete`: these are all keys; any other is deleted.
    """

    records: Mapping[str, KeyRecord | None]
    complete: bool = False


class KeyStore(Protocol):
    """Every method raises `KeyStoreUnavailable` when the store does not answer in time."""

    async def all(self) -> Mapping[str, KeyRecord]:
        """Every record, by digest."""
        ...

    def changes(self) -> AsyncIterator[Change]:
        """First everything (`complete`), then each change within a second of its commit.

        No change is missed: where one may have been, a complete one follows. Ends only by raising
        `KeyStoreUnavailable`; call it again to go on.
        """
        ...

    async def put(self, records: Sequence[KeyRecord]) -> None:
        """Store `records`, replacing those of the same digest: all of them or none, whatever crashes."""
        ...

    async def used(self, last_used: Mapping[str, float]) -> None:
        """Record when keys, by id, were last used. May be lost; never blocks a change."""
        ...

    async def last_used(self) -> Mapping[str, float]:
        """By key id, when keys were last used, as far as known."""
        ...

    async def close(self) -> None: ...
