"""The key store in a file of JSON lines, for a gateway on one machine.

* `PATH`: a record a line; replaced as a whole (0600), so that a reader sees the old or the new
* `PATH.lock`: locked during changes
* `PATH.used`: when keys were last used, by id; not synced to the disk

The kernel notifies followers; they also poll twice a second, for file systems without notification (network mounts).
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gatehouse.files.atomic_file import lock, replace_file
from gatehouse.files.watch import looks, mark
from gatehouse.keys.record import KeyRecord
from gatehouse.keys.record_json import from_json, to_json
from gatehouse.keys.standing import replaced
from gatehouse.keys.store import Change, KeyStoreUnavailable

log = logging.getLogger(__name__)

POLL_S = 0.5
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class _Content:
    """Records by digest, and by the hash of their line: 64 bits, which two lines share once in 10^9 such files."""

    records: dict[str, KeyRecord]
    lines: dict[int, KeyRecord]


class FileKeyStore:
    """`KeyStore` in the file at `path`, whose folder must exist. No file means no keys."""

    def __init__(self, path: Path, *, patience_s: float = 2.5) -> None:
        self._path = Path(os.path.realpath(path))
        self._used = self._path.with_name(f"{self._path.name}.used")
        self._patience_s = patience_s

    async def all(self) -> Mapping[str, KeyRecord]:
        return (await self._asked(self._read)).records

    async def changes(self) -> AsyncIterator[Change]:
        seen = mark(self._path)
        content = await self._asked(self._read)
        yield Change(content.records, complete=True)
        async for _ in looks([self._path], POLL_S):
            if (now := mark(self._path)) == seen:
                continue
            seen, before = now, content
            content = await self._asked(lambda before=before: self._read(before.lines))  # type: ignore[misc]
            if changed := _difference(before.records, content.records):
                yield Change(changed)

    async def put(self, records: Sequence[KeyRecord]) -> None:
        if records:
            await self._asked(lambda: self._put(records))

    async def used(self, last_used: Mapping[str, float]) -> None:
        if last_used:
            await self._asked(lambda: self._note(last_used))

    async def last_used(self) -> Mapping[str, float]:
        return await self._asked(self._noted)

    async def close(self) -> None:
        pass

    async def _asked(self, question: Callable[[], _Result]) -> _Result:
        """Run the blocking `question` in a thread."""
        try:
            return await asyncio.to_thread(question)
        except TimeoutError as error:
            raise KeyStoreUnavailable(f"{self._path}: {error}; nothing was changed, try again") from None
        except OSError as error:
            raise KeyStoreUnavailable(f"{self._path}: {error.strerror}; {_fix(error)}") from error

    def _read(self, known: Mapping[int, KeyRecord] | None = None) -> _Content:
        """The file's records. Lines in `known` are not parsed again: a change costs by its size, not the file's."""
        content = _Content({}, {})
        for line, record in self._lines(known or {}):
            content.records[record.digest] = content.lines[hash(line)] = record
        return content

    def _lines(self, known: Mapping[int, KeyRecord]) -> Iterator[tuple[bytes, KeyRecord]]:
        try:
            with self._path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    yield line, known.get(hash(line)) or self._parsed(line, number)
        except FileNotFoundError:
            os.stat(self._path.parent)  # a missing folder is not an empty store

    def _parsed(self, line: bytes, number: int) -> KeyRecord:
        try:
            return from_json(line)
        except ValueError as error:
            raise KeyStoreUnavailable(f"{self._path}:{number}: {error}; correct or remove the line") from None

    def _put(self, records: Sequence[KeyRecord]) -> None:
        changed = {record.digest: record for record in records}
        with lock(self._path, self._patience_s):
            kept: dict[str, bytes] = {}
            for line, old in self._lines({}):
                kept[old.digest] = line.rstrip(b"\n") + b"\n"
                if old.digest in changed:
                    changed[old.digest] = replaced(old, changed[old.digest])
            kept |= {digest: f"{to_json(record)}\n".encode() for digest, record in changed.items()}
            replace_file(self._path, b"".join(kept.values()))

    def _note(self, last_used: Mapping[str, float]) -> None:
        with lock(self._used, self._patience_s):
            noted = self._noted()
            noted |= {key_id: max(at, noted.get(key_id, 0.0)) for key_id, at in last_used.items()}
            replace_file(self._used, json.dumps(noted).encode(), durable=False)

    def _noted(self) -> dict[str, float]:
        try:
            noted: dict[str, float] = json.loads(self._used.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError:
            log.warning("%s can't be read; when keys were last used is noted anew", self._used)
            return {}
        return noted


def _difference(before: Mapping[str, KeyRecord], now: Mapping[str, KeyRecord]) -> dict[str, KeyRecord | None]:
    changed: dict[str, KeyRecord | None] = {
        digest: record for digest, record in now.items() if (old := before.get(digest)) is not record and old != record
    }
    return changed | {digest: None for digest in before if digest not in now}


def _fix(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "create its folder, or correct key_store.path"
    if isinstance(error, PermissionError):
        return "run this as the user the gateway runs as"
    return "see whether the disk is full or broken"
