"""The keys of one file, turned into records one by one: 100,000 of them load in seconds and take little memory."""

from collections.abc import Iterator, Mapping
from enum import Enum, auto
from typing import Any

from pydantic import ValidationError

from gatehouse.config.model import ApiKey, Limits
from gatehouse.config.places import Path
from gatehouse.config.source import API_KEYS, Take
from gatehouse.config.wording import explained
from gatehouse.contract.key_digest import is_plain, key_digest
from gatehouse.keys.record import KeyRecord

Finding = tuple[Path, str, str | None]
"""Path, message, hint."""


class KeyRetention(Enum):
    """What a process keeps of keys."""

    EVERYTHING = auto()
    """`Config.api_keys` as the file has it."""
    RECORDS = auto()
    """Records only: `Config.api_keys` stays empty."""
    NOTHING = auto()
    """Keys are not even parsed."""


class KeyTable:
    """Records by digest, and their faults. `known`: records to reuse where nothing has changed."""

    def __init__(self, keep: KeyRetention = KeyRetention.RECORDS, known: Mapping[str, KeyRecord] | None = None) -> None:
        self.records: dict[str, KeyRecord] = {}
        self.entries: dict[str, ApiKey] = {}
        self.faults: list[Finding] = []
        self.plain: list[str] = []
        self._keep = keep
        self._known = known or {}
        self._elsewhere: dict[str, Path] = {}
        from gatehouse.keys.configured import record_of  # that package imports the configuration's model

        self._record_of = record_of

    def taker(self, at: Path = API_KEYS) -> Take:
        """Adds the entries of the mapping at `at`."""
        return lambda written, fields: self._take(at, written, fields)

    def put(self, record: KeyRecord, path: Path) -> None:
        """Add a ready-made record, which is written at `path`."""
        if record.digest in self.records:
            self.faults.append((path, "this key is listed twice", "remove one of the two"))
        self.records[record.digest] = self._once(record)
        self._elsewhere[record.digest] = path

    def paths(self) -> Iterator[tuple[Path, KeyRecord]]:
        """Every record, with its path."""
        for digest, record in self.records.items():
            yield self._elsewhere.get(digest) or (*API_KEYS, digest), record

    def forget_texts(self) -> None:
        """Drop what only problem reports need, so that no plain-text key stays in memory."""
        self.plain.clear()
        self._elsewhere.clear()
        self._known = {}

    def forget(self) -> None:
        """Drop everything: the records are stored elsewhere."""
        self.forget_texts()
        self.records.clear()
        self.entries.clear()

    def _take(self, at: Path, written: str, fields: Any) -> None:
        if self._keep is KeyRetention.NOTHING:
            return
        try:
            digest = key_digest(written)
            entry = ApiKey.model_validate(fields)
        except ValidationError as error:
            self._note(error, (*at, written))
        except ValueError as error:
            self.faults.append(((*at, written), str(error), None))
        else:
            self._note_empty(entry, (*at, written))
            if digest in self.records:
                message = "one key is listed both in plain text and hashed"
                self.faults.append((at, message, "remove one of the two"))
            self.records[digest] = self._once(self._record_of(digest, entry))
            if self._keep is KeyRetention.EVERYTHING:
                self.entries[digest] = entry
            if at != API_KEYS or digest != written:
                self._elsewhere[digest] = (*at, written)
            if digest != written and is_plain(written):
                self.plain.append(written)

    def _once(self, record: KeyRecord) -> KeyRecord:
        known = self._known.get(record.digest)
        return known if known is not None and known == record else record

    def _note_empty(self, entry: ApiKey, path: Path) -> None:
        for field in ("allowed_ips", "models"):
            if not getattr(entry, field) and field in entry.model_fields_set:
                hint = "remove it to allow everything"
                self.faults.append(((*path, field), "an empty list would allow nothing", hint))

    def _note(self, error: ValidationError, at: Path) -> None:
        for detail in error.errors(include_input=False, include_url=False):
            path = (*at, *detail["loc"])
            self.faults.append((path, *explained(detail, (*API_KEYS, *path[len(at) - 1 :]))))


def limits_of(records: Mapping[str, KeyRecord]) -> dict[str, Limits]:
    """The distinct limits of single keys, by their canonical JSON."""
    return {text: Limits.model_validate_json(text) for text in {record.limits for record in records.values()} if text}
