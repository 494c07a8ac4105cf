"""`gatehouse keys revoke`: within two seconds, every worker rejects the key."""

import asyncio
import time
from typing import Annotated, Any

import typer

from gatehouse.cli.keys.context import Opened, no_store, opened
from gatehouse.cli.keys.display import fields
from gatehouse.cli.keys.listing import KeyId
from gatehouse.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, out, print_json
from gatehouse.cli.refused import RefusedError
from gatehouse.keys.known import Known, find, relatives
from gatehouse.keys.lifecycle import LEAKED, REVOKED, revoked
from gatehouse.keys.standing import restricted


def revoke(
    key_id: KeyId,
    leaked: Annotated[bool, typer.Option("--leaked", help="Note that others may have it.")] = False,
    now: Annotated[bool, typer.Option("--now", help="End its running streams, too.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Revoke a key, in the store or in a file. This can't be undone: a revoked key stays revoked."""

    async def work() -> dict[str, Any]:
        async with opened(config, as_json=as_json) as here:
            return await _revoke(here, key_id, LEAKED if leaked else REVOKED, cut=now)

    said = asyncio.run(work())
    if as_json:
        print_json(said)
        return
    out.print(f"Key {said['id']} of {said['user_id']} is revoked: within 2 seconds no worker takes it.", markup=False)
    if said["still_active"]:
        out.print(f"Made of it by rotation and still active: {', '.join(said['still_active'])}", markup=False)


async def _revoke(here: Opened, key_id: str, because: str, *, cut: bool) -> dict[str, Any]:
    keys = await here.known()
    key = find(keys, key_id)
    if not here.has_store:
        raise RefusedError(
            f"key {key.record.key_id} stands at {key.source}: remove it there; to revoke keys of files by command,"
            f" {no_store(here.file)}"
        )
    end = revoked(key.record, time.time(), because, cut=cut, in_file=key.in_file)
    await here.change("revoke", [end.key_id], [end], user_id=end.user, because=because, cut=cut)
    standing = Known(restricted(key.record, end), key.source, key.in_file, key.last_used)
    return {**fields(standing), "cut": end.cut, "still_active": relatives(keys, key.record, time.time())}
