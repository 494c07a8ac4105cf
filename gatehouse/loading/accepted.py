"""The services' copy of the last accepted configuration: settings in one file, keys in another.

Only authz_service reads the keys, as JSON lines that were checked before: 100,000 take one second instead of three.
The key file is named by its content's hash, and the settings name it: replacing the settings applies both at once.
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
    """The text of the settings, and the key file that they name; None if the settings hold the keys, or there are none.

    Neither has a key in plain text, unless environment variables change keys.
    """

    settings: bytes
    keys: Path | None

    def publish(self, path: Path) -> None:
        """Replace `path`, which the services watch."""
        replace_file(path, self.settings, durable=False)


def accepted(loaded: Loaded, path: Path) -> Accepted:
    """The copy to publish at `path`. Writes the key file beside it; nothing refers to that yet."""
    keys = _keys_beside(path, loaded)
    first = [str(keys)] if keys else []  # first, so that a duplicate is reported in the other file
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
    """Remove the key files that none of `kept` names."""
    for file in path.absolute().parent.glob("keys-*.jsonl"):
        if file not in {each.keys for each in kept}:
            file.unlink(missing_ok=True)
