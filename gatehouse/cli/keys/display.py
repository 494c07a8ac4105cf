"""A key as commands show it: never itself, never its whole digest."""

import json
import math
import time
from typing import Any

import typer
from rich.table import Table

from gatehouse.cli.options import escaped, out
from gatehouse.cli.times import shown
from gatehouse.contract.key_digest import beginning, pepper_of
from gatehouse.keys.known import Known
from gatehouse.keys.lifecycle import status
from gatehouse.keys.record import KeyRecord


def record_fields(record: KeyRecord) -> dict[str, Any]:
    """For scripts: names as in `gatehouse.yaml`, times in ISO 8601, None for what is not."""
    return {
        "id": record.key_id,
        "user_id": record.user,
        "team": record.team or None,
        "tier": record.tier,
        "name": record.name or None,
        "status": status(record, time.time()),
        "models": list(record.models),
        "allowed_ips": list(record.allowed_ips),
        "limits": json.loads(record.limits) if record.limits else None,
        "expires_at": None if math.isinf(record.expires_at) else shown(record.expires_at),
        "created_at": shown(record.created_at) if record.created_at else None,
        "created_by": record.created_by or None,
        "revoked_at": None if record.revoked_at is None else shown(record.revoked_at),
        "revoked_because": record.revoked_because or None,
        "family": record.family or record.key_id,
        "pepper": pepper_of(record.digest),
        "digest_begins": beginning(record.digest),
    }


def fields(key: Known) -> dict[str, Any]:
    last_used = None if key.last_used is None else shown(key.last_used)
    return {**record_fields(key.record), "last_used_at": last_used, "source": key.source}


def print_table(keys: list[Known]) -> None:
    """In columns. Rich would take minutes for 100,000 rows."""
    rows = [("id", "user", "team", "tier", "status", "expires", "last used", "source"), *map(_row, keys)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)
    typer.echo("\n".join(line.rstrip() for line in lines))


def _row(key: Known) -> tuple[str, ...]:
    """Of times the day."""
    found = fields(key)
    names = ("id", "user_id", "team", "tier", "status", "expires_at", "last_used_at", "source")
    return tuple(str(found[name] or "-")[: 10 if name.endswith("_at") else None] for name in names)


def print_one(key: Known) -> None:
    table = Table(show_header=False, box=None)
    for name, value in fields(key).items():
        if value not in (None, []):
            table.add_row(name, escaped(value if isinstance(value, str) else json.dumps(value)))
    out.print(table)
