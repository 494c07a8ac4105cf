"""All keys, those in files and those in the store, as one list."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gatehouse.config.problem import nearest
from gatehouse.contract.failures import GatehouseError
from gatehouse.keys.lifecycle import status
from gatehouse.keys.record import KeyRecord
from gatehouse.keys.standing import ONLY_RESTRICTS, restricted


class UnknownKeyError(GatehouseError):
    """No key, or more than one, has the id. The message lists candidates."""


@dataclass(frozen=True, slots=True)
class Known:
    """A key as it stands. `source` is `FILE:LINE`, or the name of the store; `last_used` in Unix seconds, if known."""

    record: KeyRecord
    source: str
    in_file: bool
    last_used: float | None = None


@dataclass(frozen=True, slots=True)
class InFile:
    """A key in a file, and its line."""

    record: KeyRecord
    place: str


def known_keys(
    in_files: Sequence[InFile], stored: Mapping[str, KeyRecord], store_name: str, last_used: Mapping[str, float]
) -> Iterator[Known]:
    """Files first, in their order. A record that only restricts a key is left out if no file has the key."""
    placed = {key.record.digest for key in in_files}
    for key in in_files:
        record = restricted(key.record, stored.get(key.record.digest))
        yield Known(record, key.place, in_file=True, last_used=last_used.get(record.key_id))
    for digest, record in stored.items():
        if digest not in placed and record.models != ONLY_RESTRICTS:
            yield Known(record, store_name, in_file=False, last_used=last_used.get(record.key_id))


def find(keys: Sequence[Known], key_id: str) -> Known:
    """The key of that id, or the only one whose id begins so. Raises `UnknownKeyError`, which says what there is."""
    found = [key for key in keys if key.record.key_id == key_id]
    found = found or [key for key in keys if key_id and key.record.key_id.startswith(key_id)]
    if len(found) == 1:
        return found[0]
    if found:
        candidates = ", ".join(f"{key.record.key_id} ({key.source})" for key in found[:5])
        raise UnknownKeyError(f"{len(found)} keys have ids like '{key_id}': {candidates}; give more of it")
    hint = nearest(key_id, [key.record.key_id for key in keys]) or "see 'gatehouse keys list'"
    raise UnknownKeyError(f"no key has the id '{key_id[:40]}' ({hint})")


def relatives(keys: Sequence[Known], of: KeyRecord, now: float) -> list[str]:
    """The ids of other active keys that rotation made of it, or made it of."""
    family = of.family or of.key_id
    others = (key.record for key in keys if (key.record.family or key.record.key_id) == family)
    return [other.key_id for other in others if other.key_id != of.key_id and status(other, now) == "active"]
