"""The key store in Redis (7.0 or newer), for any number of gateways.

* `gh:{keys}:records`: a hash, digest -> JSON of the record
* `gh:{keys}:changes`: a stream; an entry holds the records of one change, or `*` when they were too many
* `gh:{keys}:used`: a hash, key id -> Unix time of the last use

A change is one MULTI/EXEC that writes records and stream. Followers are woken by XREAD and then read the stream in one
step with its counters: a stream that holds anything but what they have seen and what is new (it was trimmed, lost, or
a fail-over took back changes) makes them read everything again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from redis import exceptions

from gatehouse.keys.record import KeyRecord
from gatehouse.keys.record_json import from_json, to_json
from gatehouse.keys.standing import replaced
from gatehouse.keys.store import Change, KeyStoreUnavailable
from gatehouse.redis_client.client import Client

log = logging.getLogger(__name__)

RECORDS, CHANGES, USED = "gh:{keys}:records", "gh:{keys}:changes", "gh:{keys}:used"
KEPT_CHANGES = 10_000
"""Changes that the stream keeps: a follower that missed more reads everything again."""
WAIT_MS = 1000
CHUNK = 1000
_TOO_MANY = 200
_EVERYTHING = "*"
_ATTEMPTS = 20
_ERRORS = (exceptions.RedisError, exceptions.RedisClusterException, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class _Place:
    """How far a stream has been read: entries ever added to it, and the id of the last one."""

    added: int = 0
    last: str = "0-0"


class RedisKeyStore:
    """`KeyStore` on a client from `redis_client.connect`, which it closes and whose time-outs must exceed `WAIT_MS`."""

    def __init__(self, client: Client) -> None:
        self._client: Any = client  # redis-py's types fit neither replies in bytes nor clusters

    async def all(self) -> Mapping[str, KeyRecord]:
        records: dict[str, KeyRecord] = {}
        cursor = -1
        try:
            while cursor:
                cursor, chunk = await self._client.hscan(RECORDS, max(cursor, 0), count=CHUNK)
                records.update((record.digest, record) for record in map(_read, chunk.keys(), chunk.values()))
        except _ERRORS as error:
            _unavailable(error)
        return records

    async def changes(self) -> AsyncIterator[Change]:
        place, _ = await self._since(None)
        yield Change(await self.all(), complete=True)
        while True:
            await self._wait(place)
            now, entries = await self._since(place)
            if _gapless(place, now, len(entries)) and not any(_everything(entry) for entry in entries):
                if entries:
                    yield Change({r.digest: r for entry in entries for r in map(_read, entry.keys(), entry.values())})
            else:
                yield Change(await self.all(), complete=True)
            place = now

    async def put(self, records: Sequence[KeyRecord]) -> None:
        for _ in range(_ATTEMPTS):
            try:
                if not records or await self._put(records):
                    return
                await asyncio.sleep(0.01)
            except _ERRORS as error:
                _unavailable(error)
        raise KeyStoreUnavailable("too many others change keys at this moment; try again")

    async def used(self, last_used: Mapping[str, float]) -> None:
        if not last_used:
            return
        try:
            await self._client.hset(USED, mapping=dict(last_used))
        except _ERRORS as error:
            _unavailable(error)

    async def last_used(self) -> Mapping[str, float]:
        try:
            found: dict[bytes, bytes] = await self._client.hgetall(USED)
        except _ERRORS as error:
            _unavailable(error)
        return {key_id.decode(): float(at) for key_id, at in found.items()}

    async def close(self) -> None:
        await self._client.aclose()

    async def _put(self, records: Sequence[KeyRecord]) -> bool:
        """Whether the transaction was committed: not if another client changed keys in between."""
        async with self._client.pipeline(transaction=True) as transaction:
            await transaction.watch(RECORDS)
            found = await transaction.hmget(RECORDS, [record.digest for record in records])
            kept = {new.digest: to_json(_in_place_of(old, new)) for old, new in zip(found, records, strict=True)}
            transaction.multi()
            transaction.hset(RECORDS, mapping=kept)
            entry = kept if len(kept) <= _TOO_MANY else {_EVERYTHING: ""}
            transaction.xadd(CHANGES, entry, maxlen=KEPT_CHANGES, approximate=True)
            try:
                await transaction.execute()
            except exceptions.WatchError:
                return False
        return True

    async def _wait(self, place: _Place) -> None:
        """Wait until the stream has an entry after `place`, or some time has passed."""
        try:
            await self._client.xread({CHANGES: place.last}, count=1, block=WAIT_MS)
        except _ERRORS as error:
            _unavailable(error)
        if (task := asyncio.current_task()) and task.cancelling():
            # redis-py sends under asyncio.wait_for, which before Python 3.12 may swallow it (python/cpython#86296)
            raise asyncio.CancelledError

    async def _since(self, place: _Place | None) -> tuple[_Place, list[dict[bytes, bytes]]]:
        """The stream's position, and its entries after `place`, read in one step."""
        beginning = f"({place.last}" if place else "+"
        try:
            async with self._client.pipeline(transaction=True) as transaction:
                transaction.xinfo_stream(CHANGES)
                transaction.xrange(CHANGES, min=beginning)
                info, entries = await transaction.execute(raise_on_error=False)
        except _ERRORS as error:
            _unavailable(error)
        if isinstance(info, exceptions.ResponseError) and "no such key" in str(info):
            return _Place(), []
        for reply in (info, entries):
            if isinstance(reply, Exception):
                _unavailable(reply)
        return _Place(info["entries-added"], info["last-generated-id"].decode()), [entry for _, entry in entries]


def _gapless(before: _Place, now: _Place, entries: int) -> bool:
    """Whether no change was missed. A position that went back belongs to another stream."""
    return now.added == before.added + entries and (entries > 0 or now.last == before.last)


def _everything(entry: Mapping[bytes, bytes]) -> bool:
    return _EVERYTHING.encode() in entry


def _in_place_of(old: bytes | None, new: KeyRecord) -> KeyRecord:
    return replaced(_read(new.digest.encode(), old) if old else None, new)


def _read(digest: bytes, line: bytes) -> KeyRecord:
    """The record on `line`. An unreadable one counts as a revoked key, so it allows nobody."""
    try:
        record = from_json(line)
        if record.digest == digest.decode():
            return record
        fault = "stands under another digest"
    except ValueError as error:
        fault = str(error)
    log.error("a key record in Redis can't be read, so the key is refused: %s", fault)
    return KeyRecord(
        digest.decode("utf-8", "replace"), "unreadable", "unreadable", revoked_at=0.0, revoked_because=fault
    )


def _unavailable(error: Exception) -> NoReturn:
    """Translates redis-py's error to ours, with what to do."""
    fix = next((fix for kinds, fix in _FIXES if isinstance(error, kinds)), "see the log of Redis")
    raise KeyStoreUnavailable(f"Redis does not keep keys now: {_reason(error)}; {fix}") from error


def _reason(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__


_FIXES: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    ((exceptions.AuthenticationError, exceptions.AuthorizationError), "put user and password into redis.url"),
    (exceptions.NoPermissionError, "permit it: ACL SETUSER <user> ~gh:* +@hash +@stream +@transaction"),
    (exceptions.BusyLoadingError, "wait until it has read its data"),
    (exceptions.ReadOnlyError, "let redis.url name the primary, or the sentinels: redis+sentinel://host:port/master"),
    (exceptions.OutOfMemoryError, "give it more memory (maxmemory)"),
    ((exceptions.TimeoutError, TimeoutError), "whether a change was taken is unknown: look with 'gatehouse keys list'"),
    ((exceptions.ConnectionError, OSError), "check redis.url and that Redis runs"),
)
