"""Can logs be written, and are the files with keys readable for the gateway and not for everybody?"""

import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path

from gatehouse.config.model import Config
from gatehouse.doctor.finding import Finding, error, ok, warning

LOGS, SECRETS = "logs", "key files"
_ROOM_BYTES = 1024**3


def log_directory(config: Config) -> list[Finding]:
    wanted = Path(config.logging.dir).absolute()
    there = next(path for path in (wanted, *wanted.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return [
            error(
                LOGS, f"{wanted} can't be written", f"chown {there} to the user the gateway runs as, or set logging.dir"
            )
        ]
    free = shutil.disk_usage(there).free
    if free < _ROOM_BYTES:
        fix = "make room, lower logging.retention_days, or set logging.dir"
        return [warning(LOGS, f"{wanted} has {free // 1024**2} MiB left", fix)]
    return [ok(LOGS, f"{wanted} can be written, {free / 1024**3:.0f} GiB are free")]


def key_files(config: Config, config_file: Path, *, plain_keys: bool) -> list[Finding]:
    """`plain_keys`: the configuration itself holds keys in plain text."""
    secrets = (*config.keys.peppers.values(), *(model.upstream_api_key or "" for model in config.models.values()))
    references = [value.removeprefix("file:") for value in secrets if value.startswith("file:")]
    store = [config.key_store.path] if config.key_store.path and Path(config.key_store.path).exists() else []
    files = [*config.key_files, *references, *store]
    found = [finding for file in files for finding in secret_file(SECRETS, file)]
    if plain_keys:
        found += [replace(finding, level="advice") for finding in secret_file(SECRETS, str(config_file))]
    return found or [ok(SECRETS, f"{len(files)} that only the gateway can read" if files else "none")]


def secret_file(about: str, file: str) -> list[Finding]:
    """Problems with the permissions of a file that holds a secret."""
    try:
        mode = stat.S_IMODE(os.stat(file).st_mode)
    except OSError as gone:
        return [error(about, f"{file} can't be read: {gone.strerror}", "create it, or correct its name")]
    if not os.access(file, os.R_OK):
        return [error(about, f"{file} can't be read", f"chown {file} to the user the gateway runs as")]
    if mode & stat.S_IRWXO:
        return [warning(about, f"everybody on this machine can open {file} ({mode:04o})", f"chmod o= {file}")]
    return []
