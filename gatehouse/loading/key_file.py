"""Reads one key file: a mapping of keys like `api_keys`, alone or under that name, or the JSON lines of
`gatehouse keys export`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path as FilePath

from gatehouse.config.model import Config
from gatehouse.config.places import Path
from gatehouse.config.problem import ConfigError, Problem
from gatehouse.config.source import API_KEYS, dotted, parse
from gatehouse.keys.record import KeyRecord
from gatehouse.keys.record_json import from_json
from gatehouse.loading import rules
from gatehouse.loading.key_table import Finding, KeyTable
from gatehouse.loading.load import text_of

_KEYS_AT: tuple[Path, ...] = ((), API_KEYS)
_JSON_LINES = (".jsonl", ".ndjson")

Others = Mapping[str, KeyTable]
"""The keys of other files, by the file's name."""

_Report = Callable[[Iterable[Finding]], list[Problem]]


def read_key_file(
    file: FilePath, config: Config, others: Others, known: Mapping[str, KeyRecord] | None = None
) -> KeyTable:
    """The keys in `file`, none of which may be in `others`. Raises `ConfigError` with all problems.

    `known`: records to reuse where they are unchanged.
    """
    keys, text = KeyTable(known=known), text_of(file)
    report = (_json_lines if file.suffix in _JSON_LINES else _yaml)(text, str(file), keys)
    found = keys.faults or [*rules.key_faults(config, keys), *clashes(keys, others)]
    if found:
        raise ConfigError(sorted(report(found), key=lambda problem: problem.line or 0))
    keys.forget_texts()
    return keys


def placed_keys(file: FilePath) -> list[tuple[KeyRecord, int | None]]:
    """The keys in `file`, a key file or `gatehouse.yaml`, each with its line. Faulty ones are skipped."""
    keys, text = KeyTable(), text_of(file)
    report = (_json_lines if file.suffix in _JSON_LINES else _yaml)(text, str(file), keys)
    written = list(keys.paths())
    places = report((path, "", None) for path, _ in written)
    return [(record, place.line) for (_, record), place in zip(written, places, strict=True)]


def fits(keys: KeyTable, config: Config, others: Others) -> bool:
    """Whether keys that were valid before still are, given the other files."""
    return not any(rules.key_faults(config, keys)) and not any(clashes(keys, others))


def clashes(keys: KeyTable, others: Others) -> Iterator[Finding]:
    """Keys, and names of keys, that are in another file too."""
    for file, other in others.items():
        names = {record.name for record in other.records.values()} - {""}
        if other.records.keys().isdisjoint(keys.records) and names.isdisjoint(r.name for r in keys.records.values()):
            continue
        for path, record in keys.paths():
            if record.digest in other.records:
                yield path, f"this key is in {file} too", "remove one of the two"
            elif record.name in names:
                yield (*path, "name"), f"a key in {file} has this name too", "logs tell keys apart by it"


def _yaml(text: bytes, origin: str, keys: KeyTable) -> _Report:
    source = parse(text, origin, {at: keys.taker(at) for at in _KEYS_AT})
    if source.data is not None and (not isinstance(source.data, dict) or source.data.get("api_keys") not in (None, {})):
        raise ConfigError([Problem(origin, 1, "", "must be a mapping of keys, like 'api_keys' in gatehouse.yaml")])

    def report(found: Iterable[Finding]) -> list[Problem]:
        findings = list(found)
        places = source.places(path for path, _, _ in findings)
        return [Problem(origin, places.of(path), dotted(path, _KEYS_AT), what, hint) for path, what, hint in findings]

    return report


def _json_lines(text: bytes, origin: str, keys: KeyTable) -> _Report:
    """JSON lines; paths begin with the line number."""
    for number, line in enumerate(BytesIO(text), 1):
        if not line.strip():
            continue
        try:
            keys.put(from_json(line), (number,))
        except ValueError as error:
            keys.faults.append(((number,), str(error), None))

    def report(found: Iterable[Finding]) -> list[Problem]:
        return [Problem(origin, int(path[0]), dotted(path[1:], ()), what, hint) for path, what, hint in found]

    return report
