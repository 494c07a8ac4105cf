"""The keys in files, each with its line, so that it can be found and removed."""

from pathlib import Path

from gatehouse.config.model import Config
from gatehouse.keys.configured import record_of
from gatehouse.keys.known import InFile
from gatehouse.loading.key_file import placed_keys


def keys_in_files(config: Config, file: Path) -> list[InFile]:
    """The keys of `config`, read from `file`, and of its key files. Raises `ConfigError` if one can't be read."""
    lines = {record.digest: line for record, line in placed_keys(file)} if config.api_keys else {}
    own = [InFile(record_of(digest, key), _place(file, lines.get(digest))) for digest, key in config.api_keys.items()]
    return own + [
        InFile(record, _place(key_file, line))
        for key_file in map(Path, config.key_files)
        for record, line in placed_keys(key_file)
    ]


def _place(file: Path, line: int | None) -> str:
    return f"{file}:{line}" if line else str(file)
