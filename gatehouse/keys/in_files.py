"""The keys that stand in files, each with the line at which it can be found and removed."""

from pathlib import Path

from gatehouse.config.model import Config
from gatehouse.config.source import parse
from gatehouse.keys.configured import record_of
from gatehouse.keys.digest import key_digest
from gatehouse.keys.known import InFile


def keys_in_files(config: Config, file: Path) -> list[InFile]:
    """Those of `config`, which was read from `file`."""
    lines = _lines(file) if config.api_keys else {}
    return [
        InFile(record_of(digest, key), f"{file}:{lines[digest]}" if digest in lines else str(file))
        for digest, key in config.api_keys.items()
    ]


def _lines(file: Path) -> dict[str, int | None]:
    """The line of each key, by digest."""
    source = parse(file.read_text("utf-8"), str(file))
    written = source.data.get("api_keys") or {}
    return {key_digest(key): source.line(("api_keys", key)) for key in written}
