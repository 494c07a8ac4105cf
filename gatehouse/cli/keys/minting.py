"""New keys: minted, and shown to the operator once."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gatehouse.cli.keys.context import Opened
from gatehouse.cli.keys.display import record_fields
from gatehouse.cli.options import err, escaped, out, print_json
from gatehouse.config import Config
from gatehouse.keys.audit import operator
from gatehouse.keys.format import mint
from gatehouse.keys.known import Known
from gatehouse.keys.lifecycle import Birth
from gatehouse.keys.record import KeyRecord


@dataclass(frozen=True, slots=True)
class Made:
    """A new key in the store, with warnings about risks to it there, and further messages."""

    key: str = field(repr=False)
    record: KeyRecord
    warnings: Sequence[str] = ()
    more: dict[str, Any] = field(default_factory=dict)
    said: str = ""


def born(here: Opened, keys: Sequence[Known]) -> tuple[str, Birth]:
    """A new key, whose id none of `keys` has."""
    taken = {key.record.key_id for key in keys}
    minted = mint(here.config.keys.prefix)
    while minted.key_id in taken:
        minted = mint(here.config.keys.prefix)
    return minted.key, Birth(minted.key_id, here.hasher.newest(minted.key), time.time(), operator())


async def dangers(config: Config) -> list[str]:
    """Risks to keys in the store of `config`, each with the fix."""
    if config.key_store.type != "redis":
        return []
    from gatehouse.keys import durability

    return [f"{finding.message}; {finding.fix}" for finding in await durability.check(config)]


def print_made(made: Made, *, as_json: bool) -> None:
    if as_json:
        print_json({"key": made.key, **record_fields(made.record), **made.more, "warnings": list(made.warnings)})
        return
    for warning in made.warnings:
        err.print(f"[yellow]warning[/yellow] {escaped(warning)}")
    out.print(made.key, markup=False)
    until = record_fields(made.record)["expires_at"]
    lasting = f"expires {until}" if until else "does not expire"
    err.print(f"Key {made.record.key_id} of {made.record.user}: {lasting}. It is not shown again.", markup=False)
    if made.said:
        err.print(made.said, markup=False)
