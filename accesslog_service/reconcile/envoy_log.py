"""Envoy's log as files: what it writes now, and the days before."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from accesslog_service.reconcile.envoy_line import Line, UnreadableLineError, ended
from accesslog_service.reconcile.identity import identity, without_id
from gatehouse.contract.access_log import DAILY_STEM, FILE_NAME
from gatehouse.files.retention import copies, opened


@dataclass(frozen=True, slots=True)
class Account:
    """What Envoy says of one request. `stop`: where its line ends in the file."""

    identity: bytes
    ended: datetime
    line: Line
    stop: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A line that was not written to its end, or is not Envoy's."""

    stop: int


def files(directory: Path) -> list[Path]:
    """Oldest first; the file that Envoy writes to is the last."""
    days = {_day_of(path) for path in directory.glob(f"{DAILY_STEM}_????-??-??.*")}
    old = {path for day in days for path in (day, *copies(day)) if path.exists()}
    current = directory / FILE_NAME
    return [*sorted({*old, *copies(current)}), *([current] if current.exists() else [])]


def _day_of(path: Path) -> Path:
    """The file of a day, of which `path` may be a part or a copy."""
    return path.with_name(path.name.partition(".")[0] + ".log")


def accounts(path: Path, start: int = 0) -> Iterator[Account | Unreadable]:
    """What stands in a file from byte `start` on. A last line without an end is left for another time."""
    with closing(opened(path)) as file:
        file.seek(start)
        stop = start
        for raw in file:
            stop += len(raw)
            if raw.endswith(b"\n"):
                yield _account(raw, stop)


def _account(raw: bytes, stop: int) -> Account | Unreadable:
    try:
        line = json.loads(raw)
        return Account(_identity(line), ended(line), line, stop)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UnreadableLineError):
        return Unreadable(stop)


def _identity(line: dict[str, Any]) -> bytes:
    if line["request_id"]:
        return identity(line["request_id"])
    time = datetime.fromisoformat(line["time"]).isoformat(timespec="milliseconds")
    return without_id(time, line["client_ip"], line["status"] or 0, line["bytes_out"] or 0)
