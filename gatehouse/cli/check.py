"""`gatehouse check`: would a gateway run with this configuration?"""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gatehouse.cli.options import (
    BAD_CONFIG,
    DEFAULT_CONFIG,
    AsJson,
    ConfigFile,
    err,
    escaped,
    loaded_or_exit,
    out,
    print_json,
    problem_fields,
)
from gatehouse.config.model import Config

if TYPE_CHECKING:
    from gatehouse.doctor.finding import Finding


def check(
    file: Annotated[Path | None, typer.Argument(help="The configuration file (or -c).")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Check a configuration file: its fields, the Envoy configuration rendered from it, and the versions of Envoy and
    Redis. Exits 2 if it can't be used."""
    loaded = loaded_or_exit(file or config, as_json=as_json, to_run=True, to_log=True)
    found = _found(loaded.config)
    if refused := [finding for finding in found if finding.level == "error"]:
        if as_json:
            errors = [{"origin": each.about, "message": each.message, "hint": each.fix} for each in refused]
            print_json({"ok": False, "errors": errors})
        for each in () if as_json else refused:
            err.print(f"[red]error[/red] {escaped(f'{each.about}: {each.message} ({each.fix})')}")
        raise typer.Exit(BAD_CONFIG)
    doubtful = [finding for finding in found if finding.level in ("warning", "advice")]
    if as_json:
        beside = [{"origin": each.about, "message": each.message, "hint": each.fix} for each in doubtful]
        print_json({"ok": True, "warnings": [*(problem_fields(warning) for warning in loaded.warnings), *beside]})
        return
    for each in doubtful:
        err.print(f"[yellow]warning[/yellow] {escaped(f'{each.about}: {each.message} ({each.fix})')}")
    for warning in loaded.warnings:
        err.print(f"[yellow]warning[/yellow] {escaped(str(warning))}")
    out.print(f"{escaped(str(file or config))}: ok")


def _found(config: Config) -> "list[Finding]":
    """Problems found by Envoy and Redis; a Redis that does not answer now is no problem."""
    from gatehouse.doctor.envoy import envoy  # brings clients of Redis and HTTP
    from gatehouse.doctor.redis import unusable

    return [*envoy(config), *asyncio.run(unusable(config))]
