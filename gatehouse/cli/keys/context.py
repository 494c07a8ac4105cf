"""What the commands work on: configuration, key store and audit log."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gatehouse.cli.options import loaded_or_exit
from gatehouse.cli.refused import RefusedError
from gatehouse.config import Config
from gatehouse.contract.key_digest import Hasher
from gatehouse.keys.audit import AuditLog, AuditUnavailable, entries
from gatehouse.keys.known import Known, known_keys
from gatehouse.keys.peppers import hasher
from gatehouse.keys.record import KeyRecord
from gatehouse.keys.store import KeyStore, KeyStoreUnavailable
from gatehouse.keys.stores import name_of, store_of
from gatehouse.loading.keys_in_files import keys_in_files

PATIENCE_S = 30.0
"""Longer than for requests: a person is waiting."""

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Opened:
    config: Config
    file: Path
    hasher: Hasher
    audit: AuditLog
    _store: KeyStore | None

    @property
    def has_store(self) -> bool:
        return self._store is not None

    @property
    def store(self) -> KeyStore:
        """Raises `RefusedError`, with what to configure, where there is none."""
        if self._store is None:
            raise RefusedError(no_store(self.file))
        return self._store

    async def known(self) -> list[Known]:
        """All keys, from files and store."""
        in_files = keys_in_files(self.config, self.file)
        if self._store is None:
            return list(known_keys(in_files, {}, "", {}))
        stored, last_used = await self._store.all(), await self._store.last_used()
        return list(known_keys(in_files, stored, name_of(self.config), last_used))

    async def change(self, what: str, of: Sequence[str], records: Sequence[KeyRecord], **details: Any) -> None:
        """Note in the audit log what becomes of the keys with the ids `of`, then make it so: `records` are kept.

        Raises `AuditUnavailable`, with nothing changed, and `KeyStoreUnavailable`.
        """
        store = self.store
        self.audit.note(*entries(what, of, store=name_of(self.config), **details))
        try:
            await store.put(records)
        except KeyStoreUnavailable as error:
            with suppress(AuditUnavailable):
                self.audit.note(*entries(f"{what} failed", of, reason=str(error)))
            raise


@asynccontextmanager
async def opened(file: Path, *, as_json: bool) -> AsyncIterator[Opened]:
    """Exits with status 2 when the configuration can't be used."""
    config = loaded_or_exit(file, as_json=as_json).config
    store = store_of(config, patience_s=PATIENCE_S)
    try:
        yield Opened(config, file, hasher(config.keys), AuditLog(Path(config.logging.dir)), store)
    finally:
        if store:
            await store.close()


def no_store(file: Path) -> str:
    return (
        f"there is no key store to keep this in; add to {file}, for a gateway on one machine:"
        "\n    key_store: {type: file, path: keys.jsonl}\n  or, with redis.url set:\n    key_store: {type: redis}"
    )
