"""`gatehouse keys rotate`: a successor with the same rights and counters; the old key expires after an overlap."""

import asyncio
import time
from typing import Annotated

import typer

from gatehouse.cli.keys.context import Opened, opened
from gatehouse.cli.keys.listing import KeyId
from gatehouse.cli.keys.minting import Made, born, dangers, print_made
from gatehouse.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile
from gatehouse.cli.refused import RefusedError
from gatehouse.cli.times import instant, seconds, shown
from gatehouse.keys.known import find
from gatehouse.keys.lifecycle import expiring, status, successor


def rotate(
    key_id: KeyId,
    overlap: Annotated[str, typer.Option("--overlap", help="How long the old key still works: 24h, 0s.")] = "24h",
    expires: Annotated[
        str | None, typer.Option("--expires", help="When the new key ends: 90d, 2027-01-01 (default: as the old one).")
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Create a successor of a key and print it; the old key expires after the overlap. Both happen, or neither."""

    async def work() -> Made:
        overlap_s = seconds(overlap)
        until = None if expires is None else instant(expires, time.time())
        async with opened(config, as_json=as_json) as here:
            return await _rotate(here, key_id, overlap_s, until)

    print_made(asyncio.run(work()), as_json=as_json)


async def _rotate(here: Opened, key_id: str, overlap_s: float, until: float | None) -> Made:
    here.store  # noqa: B018 - raises first if there is no store
    keys = await here.known()
    old = find(keys, key_id)
    if (is_now := status(old.record, time.time())) != "active":
        raise RefusedError(f"key {old.record.key_id} is {is_now}; make a new one with 'gatehouse keys create'")
    key, birth = born(here, keys)
    new = successor(old.record, birth, until)
    ending = expiring(old.record, birth.at + overlap_s, in_file=old.in_file)
    await here.change(
        "rotate", [old.record.key_id], [new, ending], successor=new.key_id, user_id=new.user, overlap_s=overlap_s
    )
    ends = shown(ending.expires_at)
    return Made(
        key,
        new,
        await dangers(here.config),
        {"predecessor": {"id": old.record.key_id, "expires_at": ends}},
        f"Key {old.record.key_id} works until {ends}.",
    )
