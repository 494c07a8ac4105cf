"""The key store port: keys made at run time, and what operators did to keys that stand in files.

A record whose digest also stands in a file only restricts that key: it may be revoked, or expire sooner.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gatehouse.contract.failures import GatehouseError
from gatehouse.keys.record import KeyRecord


class KeyStoreUnavailable(GatehouseError):  # noqa: N818 - it names a state of the store, and reads so where it is caught
    """The store can't be asked, or did not take a change. The message says why and what to do; it shows no secret."""


@dataclass(frozen=True, slots=True)
class Change:
    """What has become of some keys: by digest, the record that now stands, or None where it is gone for good.

    `complete`: these are all keys there are; what is not among them is gone.
    """

    records: Mapping[str, KeyRecord | None]
    complete: bool = False


class KeyStore(Protocol):
    """Every method raises `KeyStoreUnavailable` when the store does not answer in time."""

    async def all(self) -> Mapping[str, KeyRecord]:
        """Every record, by digest."""
        ...

    def changes(self) -> AsyncIterator[Change]:
        """First everything (`complete`), then each change within a second of its commit, for as long as it is read.

        Gaps are never passed over: when changes may have been missed, a complete one follows. Ends only by raising
        `KeyStoreUnavailable`; whoever still wants to know asks again.
        """
        ...

    async def put(self, records: Sequence[KeyRecord]) -> None:
        """Keep `records`, replacing those of the same digest: all of them or, whatever dies, none."""
        ...

    async def used(self, last_used: Mapping[str, float]) -> None:
        """Note when keys, by id, were last used. May be lost; never blocks a change."""
        ...

    async def last_used(self) -> Mapping[str, float]:
        """By key id, when keys were last used, as far as known."""
        ...

    async def close(self) -> None: ...
