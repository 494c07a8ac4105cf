"""`gatehouse doctor`: finds problems around the gateway, and says how to fix them."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from gatehouse.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, escaped, loaded_or_exit, out, print_json
from gatehouse.cli.progress import progress
from gatehouse.loading.load import Loaded

if TYPE_CHECKING:
    from gatehouse.doctor import Check, Finding

COLOURS = {"ok": "green", "advice": "cyan", "warning": "yellow", "error": "red"}


def doctor(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Check ports, certificates, Redis, Envoy, backends, logs and limits. Exits 1 if it finds an error."""
    from gatehouse.doctor import Finding, checks  # brings clients of Redis and HTTP

    loaded: Loaded = loaded_or_exit(config, as_json=as_json, to_run=True)
    first = Finding("configuration", "ok", f"{config} is valid")
    found = asyncio.run(_examined(checks(loaded, config), first, as_json))
    wrong = any(finding.wrong for finding in found)
    if as_json:
        print_json({"ok": not wrong, "findings": [asdict(finding) for finding in found]})
    if wrong:
        raise typer.Exit(1)


async def _examined(wanted: "dict[str, Check]", first: "Finding", as_json: bool) -> "list[Finding]":
    """All findings; shown as they come, unless they are to be JSON."""
    from gatehouse.doctor import examine

    found = [first]
    with progress("looking …") as tell:
        if not as_json:
            _show(first)
        async for finding in examine(wanted, tell):
            found.append(finding)
            if not as_json:
                _show(finding)
    return found


def _show(finding: "Finding") -> None:
    colour = COLOURS[finding.level]
    fix = f" → {finding.fix}" if finding.fix else ""
    out.print(f"[{colour}]{finding.level:8}[/{colour}]{finding.about:14}{escaped(finding.message + fix)}")
