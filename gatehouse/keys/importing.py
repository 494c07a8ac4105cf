"""Checks lines to import: each on its own, and against all others and existing keys."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from gatehouse.config.model import Config
from gatehouse.keys.fitting import misfit
from gatehouse.keys.known import Known
from gatehouse.keys.record import KeyRecord
from gatehouse.keys.record_json import from_json
from gatehouse.keys.standing import ONLY_RESTRICTS


class Import:
    """Collects records, and faults with their line numbers. `by` and `at` fill in who made a key, and when."""

    def __init__(self, config: Config, known: Iterable[Known], by: str, at: float) -> None:
        self.records: list[KeyRecord] = []
        self.faults: list[str] = []
        self._config = config
        self._by, self._at = by, at
        self._digest_of = {key.record.key_id: key.record.digest for key in known}
        self._line_of: dict[str, int] = {}

    def read(self, lines: Sequence[bytes], first: int) -> None:
        """`first` is the number of the first line. Empty lines are passed over."""
        for number, line in enumerate(lines, start=first):
            if not line.strip():
                continue
            try:
                self.records.append(self._checked(from_json(line), number))
            except ValueError as error:
                self.faults.append(f"line {number}: {error}")

    def _checked(self, record: KeyRecord, number: int) -> KeyRecord:
        if record.revoked_at is None and (fault := misfit(record, self._config)):
            raise ValueError(fault)
        first = self._line_of.setdefault(record.digest, number)
        if first != number:
            raise ValueError(f"digest: stands on line {first}, too")
        if self._digest_of.setdefault(record.key_id, record.digest) != record.digest:
            raise ValueError(f"id: another key is called '{record.key_id}'")
        made_here = not record.created_at and record.models != ONLY_RESTRICTS
        return replace(record, created_at=self._at, created_by=self._by) if made_here else record
