"""The copy of a configuration that services go by, as it was last accepted: settings in one file, keys in another.

Only authz_service has the keys read, and those are JSON lines that were checked before: it has 100,000 in one second
instead of three. The file of keys is named for what it holds, and the settings name it: one change puts both in force.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import yaml

from gatehouse.files.atomic_file import replace_file
from gatehouse.keys.record_json import to_json
from gatehouse.loading.load import Loaded

_DUMPER = yaml.CSafeDumper if yaml.__with_libyaml__ else yaml.SafeDumper


@dataclass(frozen=True, slots=True)
class Accepted:
    """The text of the settings, and the file of keys that they name; None where they hold the keys, or there are none.

    No key is in plain text in either, but where the environment changes keys.
    """

    settings: bytes
    keys: Path | None

    def publish(self, path: Path) -> None:
        """Put it in force for who follows `path`."""
        replace_file(path, self.settings, durable=False)


def accepted(loaded: Loaded, path: Path) -> Accepted:
    """What is to be published at `path`. The file of keys is written beside it, for nobody as yet."""
    keys = _keys_beside(path, loaded)
    first = [str(keys)] if keys else []  # a clash with another file's keys is to be that one's fault
    settings = {**loaded.settings, "key_files": [*first, *loaded.config.key_files]}
    return Accepted(yaml.dump(settings, Dumper=_DUMPER, sort_keys=False).encode(), keys)


def _keys_beside(path: Path, loaded: Loaded) -> Path | None:
    if loaded.keys is None or not loaded.keys.records:
        return None
    lines = "".join(f"{to_json(record)}\n" for record in loaded.keys.records.values()).encode()
    file = path.absolute().with_name(f"keys-{hashlib.sha256(lines).hexdigest()[:32]}.jsonl")
    if not file.exists():
        replace_file(file, lines, durable=False)
    return file


def forget_others(path: Path, *kept: Accepted) -> None:
    """Remove the files of keys that neither of `kept` names."""
    for file in path.absolute().parent.glob("keys-*.jsonl"):
        if file not in {each.keys for each in kept}:
            file.unlink(missing_ok=True)
