"""A key store in memory, for tests that need to say when it fails."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

from gatehouse.keys.record import KeyRecord
from gatehouse.keys.standing import replaced
from gatehouse.keys.store import Change, KeyStoreUnavailable


class MemoryKeyStore:
    """`KeyStore`. While it is not `up`, every call fails."""

    def __init__(self, *records: KeyRecord) -> None:
        self.records = {record.digest: record for record in records}
        self.noted: dict[str, float] = {}
        self.up = True
        self.asked = 0
        self._turn = asyncio.Event()
        self._changed: list[Change] = []

    async def all(self) -> Mapping[str, KeyRecord]:
        self._answers()
        return dict(self.records)

    async def changes(self) -> AsyncIterator[Change]:
        self.asked += 1
        told = len(self._changed)
        yield Change(await self.all(), complete=True)
        while True:
            self._answers()
            for change in self._changed[told:]:
                yield change
            told = len(self._changed)
            turn = self._turn
            await turn.wait()

    async def put(self, records: Sequence[KeyRecord]) -> None:
        self._answers()
        kept = {record.digest: replaced(self.records.get(record.digest), record) for record in records}
        self.records |= kept
        self.tell(Change(kept))

    def tell(self, change: Change) -> None:
        self._changed.append(change)
        self._wake()

    def fail(self) -> None:
        self.up = False
        self._wake()

    async def used(self, last_used: Mapping[str, float]) -> None:
        self._answers()
        self.noted |= last_used

    async def last_used(self) -> Mapping[str, float]:
        self._answers()
        return self.noted

    async def close(self) -> None:
        self.fail()

    def _answers(self) -> None:
        if not self.up:
            raise KeyStoreUnavailable("the store is down; start it")

    def _wake(self) -> None:
        self._turn.set()
        self._turn = asyncio.Event()
