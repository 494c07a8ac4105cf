"""Options, output and exits that commands share."""

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from gatehouse.config import ConfigError
from gatehouse.config.problem import Problem
from gatehouse.loading.complete import load_whole
from gatehouse.loading.load import Loaded, load_with_advice

ConfigFile = Annotated[Path, typer.Option("-c", "--config", help="The configuration file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
DEFAULT_CONFIG = Path("gatehouse.yaml")

BAD_CONFIG = 2
"""Exit status for a configuration that can't be used."""

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def loaded_or_exit(file: Path, *, as_json: bool = False, to_run: bool = False, to_log: bool = False) -> Loaded:
    """The checked configuration; on problems, prints them all and exits with status 2.

    `to_run`: also checks its key files, secrets and certificate, and drops the keys. `to_log`: also checks the log
    directory.
    """
    try:
        loaded = _with_certificate(load_whole(file)) if to_run else load_with_advice(file)
        if to_log:
            _check_log_directory(loaded, file)
        return loaded
    except ConfigError as error:
        if as_json:
            print_json({"ok": False, "errors": [problem_fields(problem) for problem in error.problems]})
        for problem in () if as_json else error.problems:
            err.print(f"[red]error[/red] {escaped(str(problem))}")
        if not as_json and not file.exists():
            err.print("Name another file with -c, or set VLLM_BASE_URL in a file such as the one in the README.")
        raise typer.Exit(BAD_CONFIG) from None


def _check_log_directory(loaded: Loaded, file: Path) -> None:
    """Raises `ConfigError`."""
    logs = Path(loaded.config.logging.dir).absolute()
    there = next(path for path in (logs, *logs.parents) if path.exists())
    if not there.is_dir():
        hint = "name a directory, or one that can be made"
        raise ConfigError([Problem(str(file), None, "logging.dir", f"{there} is a file", hint)])


def _with_certificate(loaded: Loaded) -> Loaded:
    """Raises `ConfigError` if the certificate can't be used; one that clients will reject gets a warning."""
    tls = loaded.config.server.tls
    if tls is None:
        return loaded
    from gatehouse.gateway import certificate  # brings cryptography: 8 MB

    problem = certificate.untimely(certificate.read(tls), tls, datetime.now(UTC))
    return replace(loaded, warnings=(*loaded.warnings, problem)) if problem else loaded


def problem_fields(problem: Any) -> dict[str, Any]:
    return {name: getattr(problem, name) for name in ("origin", "line", "path", "message", "hint")}


def print_json(value: Any) -> None:
    json.dump(value, sys.stdout, ensure_ascii=False)
    sys.stdout.write("\n")
    sys.stdout.flush()


def print_wide(table: Table) -> None:
    """Print a table at its full width, whatever the terminal's, so that no figure is truncated."""
    endless = out.options.update_width(10_000)
    Console(highlight=False, width=Measurement.get(out, endless, table).maximum).print(table)


def escaped(text: str) -> str:
    """`text` with rich's markup escaped."""
    return text.replace("[", r"\[")


def fail(message: str, status: int = 1) -> NoReturn:
    err.print(f"[red]error[/red] {escaped(message)}")
    raise typer.Exit(status)
