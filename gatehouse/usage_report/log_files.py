"""Finds the files of the request log."""

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from gatehouse.contract.failures import GatehouseError

_LOG = re.compile(r"(requests_(\d{4}-\d{2}-\d{2})(?:\.\d+)?\.log)(\.gz|\.zst)?")


class NoLogsError(GatehouseError):
    """There are no logs. The message says which directory was searched, and what to do."""


def logs_in(directory: Path) -> list[Path]:
    """The request logs in `directory`, oldest first. Raises `NoLogsError` when there are none.

    A day may be in several parts (`requests_2026-11-01.1.log`). If one has two files, because it is just being
    compressed, only the plain one counts: it is complete.
    """
    days: dict[str, Path] = {}
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        if match := _LOG.fullmatch(path.name):
            days.setdefault(match[1], path)  # the plain name sorts first
    if not days:
        raise NoLogsError(f"no request logs in {directory}/ (requests_YYYY-MM-DD.log); name other logs")
    return list(days.values())


def named(paths: Sequence[Path]) -> list[Path]:
    """The logs among the given files and directories, each once. Raises `NoLogsError`."""
    found: dict[Path, Path] = {}
    for path in paths:
        for file in logs_in(path) if path.is_dir() else [path]:
            if not os.access(file, os.R_OK):
                why = "can't be read: run this as the gateway's user" if file.exists() else "is not there"
                raise NoLogsError(f"{file} {why}")
            found.setdefault(file.resolve(), file)
    return list(found.values())


def since(files: Sequence[Path], start: datetime | None) -> list[Path]:
    """Without the days that ended before `start`, except for the last of them if there is no other.

    A record is in the file of the day on which its request ended, or a later one, so later files are never left out.
    """
    day = "" if start is None else start.astimezone(UTC).date().isoformat()
    return [file for file in files if _day(file) >= day] or list(files[-1:])


def _day(file: Path) -> str:
    match = _LOG.fullmatch(file.name)
    return match[2] if match else "9999-12-31"
