"""`gatehouse check`: is this configuration one that would run?"""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from gatehouse.cli.options import (
    BAD_CONFIG,
    DEFAULT_CONFIG,
    AsJson,
    ConfigFile,
    err,
    escaped,
    fail,
    loaded_or_exit,
    out,
    print_json,
    problem_fields,
)
from gatehouse.config.model import Config
from gatehouse.envoy import merged
from gatehouse.proxy.binary import EnvoyRejectsError, validate
from gatehouse.run_dir import RunDir


def check(
    file: Annotated[Path | None, typer.Argument(help="The configuration file (or -c).")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Check a configuration file, with Envoy's own validation of what it becomes. Exits 2 when it can't be used."""
    loaded = loaded_or_exit(file or config, as_json=as_json, to_run=True)
    try:
        envoy_accepts(loaded.config)
    except EnvoyRejectsError as error:
        if as_json:
            print_json({"ok": False, "errors": [{"origin": "envoy", "message": str(error)}]})
            raise typer.Exit(BAD_CONFIG) from None
        fail(f"Envoy refuses what this configuration becomes: {error}", BAD_CONFIG)
    if as_json:
        print_json({"ok": True, "warnings": [problem_fields(warning) for warning in loaded.warnings]})
        return
    for warning in loaded.warnings:
        err.print(f"[yellow]warning[/yellow] {escaped(str(warning))}")
    out.print(f"{escaped(str(file or config))}: ok")


def envoy_accepts(config: Config) -> None:
    """Raises `EnvoyRejectsError` when Envoy would not run what `config` becomes."""
    with tempfile.TemporaryDirectory(prefix="gatehouse-") as directory:
        validate(merged(config, RunDir(Path(directory)), f"{directory}/access.log"), Path(directory))
