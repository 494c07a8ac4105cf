"""`gatehouse keys list` and `show`: the keys in files and in the store."""

import asyncio
import time
from typing import Annotated

import typer

from gatehouse.cli.keys.context import opened
from gatehouse.cli.keys.display import fields, print_one, print_table
from gatehouse.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, print_json
from gatehouse.cli.refused import RefusedError
from gatehouse.cli.times import seconds
from gatehouse.keys.known import Known, find
from gatehouse.keys.lifecycle import is_expiring, is_stale, status

KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's id, or enough of its beginning.")]


def list_(
    user: Annotated[str | None, typer.Option("--user", help="Only keys of this user.")] = None,
    stale: Annotated[str | None, typer.Option("--stale", help="Only active keys not used for so long: 30d.")] = None,
    expiring: Annotated[str | None, typer.Option("--expiring", help="Only keys that end within: 14d.")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """List keys and where each is stored. The keys themselves are known only to their holders."""

    async def work() -> list[Known]:
        wanted = _Wanted(user, stale, expiring)
        async with opened(config, as_json=as_json) as here:
            if stale is not None and not here.has_store:
                raise RefusedError("only a key store notes when keys are used: --stale needs key_store")
            return [key for key in await here.known() if wanted(key)]

    keys = asyncio.run(work())
    if as_json:
        print_json({"keys": [fields(key) for key in keys]})
    else:
        print_table(keys)


class _Wanted:
    """Which keys the options ask for. Raises `RefusedError` for a duration that is none."""

    def __init__(self, user: str | None, stale: str | None, expiring: str | None) -> None:
        self._now = time.time()
        self._user = user
        self._unused_since = None if stale is None else self._now - seconds(stale)
        self._ends_before = None if expiring is None else self._now + seconds(expiring)

    def __call__(self, key: Known) -> bool:
        record = key.record
        if self._user is not None and record.user != self._user:
            return False
        if self._unused_since is None and self._ends_before is None:
            return True
        if status(record, self._now) != "active":
            return False
        if self._unused_since is not None and not is_stale(record, key.last_used, self._unused_since):
            return False
        return self._ends_before is None or is_expiring(record, self._now, self._ends_before)


def show(key_id: KeyId, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show everything that is stored about one key."""

    async def work() -> Known:
        async with opened(config, as_json=as_json) as here:
            return find(await here.known(), key_id)

    key = asyncio.run(work())
    if as_json:
        print_json(fields(key))
    else:
        print_one(key)
