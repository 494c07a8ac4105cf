"""`gatehouse simulate`: replays recorded requests against the limits of another configuration."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from gatehouse.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, err, escaped, loaded_or_exit
from gatehouse.cli.progress import progress
from gatehouse.cli.simulation_report import as_csv, as_json_, as_table
from gatehouse.cli.usage import Format, warn_of
from gatehouse.usage_report.answer import Stray
from gatehouse.usage_report.log_files import logs_in, named

_WRITERS = {Format.TABLE: as_table, Format.CSV: as_csv, Format.JSON: as_json_}


def simulate(
    logs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[LOG]...", help="Logs, plain, .gz or .zst, or directories (default: those of CONFIG)."),
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    format_: Annotated[
        Format, typer.Option("--format", help="csv: each request that would be refused; json: those, and the sums.")
    ] = Format.TABLE,
    as_json: AsJson = False,
) -> None:
    """Replay recorded requests against the limits of CONFIG: which would have been rejected, when, by which limit."""
    loaded = loaded_or_exit(config, as_json=as_json)
    form = Format.JSON if as_json else format_
    files = named(logs) if logs else logs_in(Path(loaded.config.logging.dir))
    with _replayed(config, files, refusals=form is not Format.TABLE) as messages:
        result = _WRITERS[form](messages)
    warn_of([Stray(file, lines) for file, lines in result["skipped"].items()])
    for tier, requests in result["tiers_without_limits"].items():
        warning = f"{requests:,} requests are of tier '{tier}', for which {config} has no limits"
        err.print(f"[yellow]warning[/yellow] {escaped(warning)}")


@contextmanager
def _replayed(config: Path, files: Sequence[Path], *, refusals: bool) -> Iterator[Iterator[dict[str, Any]]]:
    """The messages of `ratelimit_service.simulate`, run as a subprocess. If it fails, it prints why, and its exit
    status becomes ours."""
    command = [sys.executable, "-m", "ratelimit_service.simulate", "-c", str(config)]
    command += [word for file in files for word in ("--log", str(file))]
    command += ["--refusals"] if refusals else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0) as process:
        try:
            yield _found(process)
        except BaseException:
            process.terminate()
            raise


def _found(process: "subprocess.Popen[str]") -> Iterator[dict[str, Any]]:
    """Its messages except those on progress, which are displayed."""
    last: dict[str, Any] = {}
    with progress("reading the logs") as show:
        for line in process.stdout or ():
            last = json.loads(line)
            if "progress" in last:
                show(last["progress"])
            else:
                yield last
    if "result" not in last:
        raise typer.Exit(process.wait() or 1)
