"""`gatehouse usage reconcile`: restores lost records of the request log. accesslog_service does it, as a subprocess."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from gatehouse.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, err, fail, out, print_json

Since = Annotated[
    datetime | None,
    typer.Option("--since", formats=["%Y-%m-%d"], help="The first day to look at, UTC (default: all there are)."),
]


def reconcile(
    since: Since = None,
    run_dir: Annotated[
        str | None, typer.Option("--run-dir", help="The run directory of the gateway (default: found by its logs).")
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Compare the request logs with Envoy's own, and restore missing records. Running it again changes nothing.

    Requests of the last half minute are skipped: their records may only be late. Safe while the gateway runs.
    """
    command = [sys.executable, "-m", "accesslog_service.reconcile", "-c", str(config)]
    command += ["--since", str(since.date())] if since else []
    command += ["--run-dir", run_dir] if run_dir else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        report = _followed(_messages(process), quiet=as_json)
    if "error" in report:
        if as_json:
            print_json({"ok": False, **report})
            raise typer.Exit(process.returncode)
        fail(report["error"], process.returncode)
    if process.returncode:
        fail(f"the reconciliation ended with status {process.returncode}", 1)
    if as_json:
        print_json(report)
    else:
        _show(report)


def _messages(process: "subprocess.Popen[str]") -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    return (json.loads(line) for line in process.stdout)


def _followed(messages: Iterator[dict[str, Any]], *, quiet: bool) -> dict[str, Any]:
    """The last message; those before it are progress."""
    last: dict[str, Any] = {}
    columns = TextColumn("Comparing logs"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with nullcontext() if quiet else Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=1.0) if bar else None
        for last in messages:
            if bar and task is not None and "progress" in last:
                bar.update(task, completed=last["progress"])
    return last


def _show(report: dict[str, Any]) -> None:
    out.print(f"{report['compared']:,} requests in Envoy's log, [bold]{report['restored']:,}[/bold] records restored")
    for day, count in sorted(report["restored_by_day"].items()):
        out.print(f"  {day}  {count:,}")
    if report["settled"]:
        out.print(f"{report['settled']:,} of them settled with the limiter")
    if report["untold"]:
        err.print(
            f"[yellow]warning[/yellow] {report['untold']:,} restored requests could not be settled, as no limiter "
            "answers. What was reserved for them stays charged until its window ends."
        )
    if report["left_as_late"]:
        out.print(f"{report['left_as_late']:,} of the last {report['late_s']} s left alone: they may only be late")
    if report["unreadable"]:
        err.print(f"[yellow]warning[/yellow] {report['unreadable']:,} lines of Envoy's log can't be read")
