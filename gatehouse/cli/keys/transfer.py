"""`gatehouse keys export` and `import`: key records as JSON lines. Digests, never keys."""

import asyncio
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from gatehouse.cli.keys.context import Opened, opened
from gatehouse.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, err, fail, out, print_json
from gatehouse.cli.refused import RefusedError
from gatehouse.files.atomic_file import replace_file
from gatehouse.keys.audit import operator
from gatehouse.keys.importing import Import
from gatehouse.keys.record import KeyRecord
from gatehouse.keys.record_json import to_json

_SHOWN_FAULTS = 20
_LINES_A_STEP = 1000


def export(
    to: Annotated[Path | None, typer.Option("--out", help="Write to this file (0600), not to the terminal.")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Print the records of the key store as JSON lines, for `gatehouse keys import`. Times are Unix seconds."""

    async def work() -> list[KeyRecord]:
        async with opened(config, as_json=as_json) as here:
            return list((await here.store.all()).values())

    records = asyncio.run(work())
    lines = "".join(f"{to_json(record)}\n" for record in records)
    if to is None:
        sys.stdout.write(lines)
        return
    try:
        replace_file(to, lines.encode())
    except OSError as error:
        fail(f"{to}: can't be written: {error.strerror}")
    if as_json:
        print_json({"exported": len(records), "file": str(to)})
    else:
        out.print(f"{len(records)} keys in {to}", markup=False)


def import_(
    source: Annotated[str, typer.Argument(metavar="FILE", help="JSON lines; '-' is standard input.")],
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Store the records in FILE: all of them, or none if one is invalid. A key that was revoked here stays revoked."""

    async def work() -> int:
        async with opened(config, as_json=as_json) as here:
            here.store  # noqa: B018 - raises first if there is no store
            return await _import(here, _lines(source), quiet=as_json)

    count = asyncio.run(work())
    if as_json:
        print_json({"imported": count})
    else:
        out.print(f"{count} keys imported")


def _lines(source: str) -> list[bytes]:
    try:
        return (sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()).splitlines()
    except OSError as error:
        raise RefusedError(f"{source}: can't be read: {error.strerror}") from None


async def _import(here: Opened, lines: list[bytes], *, quiet: bool) -> int:
    from rich.progress import Progress

    found = Import(here.config, await here.known(), operator(), time.time())
    with Progress(console=err, transient=True, disable=quiet or not err.is_terminal) as progress:
        task = progress.add_task("checking", total=len(lines))
        for start in range(0, len(lines), _LINES_A_STEP):
            found.read(lines[start : start + _LINES_A_STEP], start + 1)
            progress.advance(task, _LINES_A_STEP)
        if found.faults:
            raise RefusedError(_told(found.faults))
        progress.add_task("keeping", total=None)
        await here.change("import", [record.key_id for record in found.records], found.records)
    return len(found.records)


def _told(faults: list[str]) -> str:
    more = [f"and {len(faults) - _SHOWN_FAULTS} more"] if len(faults) > _SHOWN_FAULTS else []
    return "\n  ".join(["nothing was imported:", *faults[:_SHOWN_FAULTS], *more])
