"""`gatehouse usage`: who used what, from the request logs."""

import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from gatehouse.cli.options import (
    DEFAULT_CONFIG,
    AsJson,
    ConfigFile,
    err,
    escaped,
    fail,
    loaded_or_exit,
    out,
    print_wide,
)
from gatehouse.cli.progress import progress
from gatehouse.cli.times import begin as begins
from gatehouse.cli.times import end as ends
from gatehouse.usage_report.answer import Row, Stray
from gatehouse.usage_report.export import write_csv, write_json
from gatehouse.usage_report.log_files import logs_in, named, since
from gatehouse.usage_report.question import MEASURES, Question, dimensions
from gatehouse.usage_report.run import Report, reported
from gatehouse.usage_report.terminal import bars, table

app = typer.Typer(invoke_without_command=True)
"""The command, and what else there is to do with usage: `app.command("…")(…)`."""

_MOST_LINES = 100


class Format(StrEnum):
    TABLE = "table"
    CSV = "csv"
    JSON = "json"


Logs = Annotated[
    list[Path] | None, typer.Option("--log", help="A log, plain, .gz or .zst, or a directory; any number of them.")
]


@app.callback()
def usage(
    context: typer.Context,
    by: Annotated[
        str, typer.Option("--by", help="user, team, tier, model, key, endpoint, status, day, hour, backend.")
    ] = "user,model",
    begin: Annotated[str | None, typer.Option("--since", help="A day, a time, or 7d: UTC.")] = None,
    end: Annotated[str | None, typer.Option("--until", help="A day, which counts; a time, which does not.")] = None,
    user: Annotated[list[str] | None, typer.Option("--user", help="Only of this user; repeat for more.")] = None,
    team: Annotated[list[str] | None, typer.Option("--team", help="Only of this team.")] = None,
    model: Annotated[list[str] | None, typer.Option("--model", help="Only of this model, as clients name it.")] = None,
    key: Annotated[list[str] | None, typer.Option("--key", help="Only with the key of this id.")] = None,
    measure: Annotated[str, typer.Option("--sort", help=f"Most first: {', '.join(MEASURES)}.")] = "tokens",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Rows to show (a table: 100). The total is always of all.")
    ] = None,
    chart: Annotated[bool, typer.Option("--chart", help="Draw a bar for each row as well.")] = False,
    format_: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.TABLE,
    logs: Logs = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Sum up requests, tokens, cost and latency from the request logs of CONFIG's log directory, or other logs."""
    if context.invoked_subcommand:
        return
    form = Format.JSON if as_json else format_
    if chart and form is not Format.TABLE:
        fail(f"--chart goes with a table, not with {form}")
    only = {"user": user, "team": team, "model": model, "key": key}
    question = _question(by, begin, end, {name: tuple(values) for name, values in only.items() if values}, measure)
    files = since(named(logs) if logs else logs_in(_log_directory(config, as_json=as_json)), question.since)
    with ExitStack() as stack:
        with progress("reading the logs") as show:
            report = stack.enter_context(
                reported(question, files, lambda part: show(f"reading the logs: {part:.0f} %"))
            )
        _print(report, question, form, limit, chart=chart)


def warn_of(strays: list[Stray]) -> None:
    """Warn about skipped lines."""
    for stray in strays:
        lines = "1 line is" if stray.lines == 1 else f"{stray.lines:,} lines are"
        err.print(f"[yellow]warning[/yellow] {escaped(stray.file)}: {lines} no record, and skipped")


def _question(by: str, begin: str | None, end: str | None, only: dict[str, tuple[str, ...]], measure: str) -> Question:
    now = datetime.now(UTC)
    try:
        return Question(
            dimensions(by),
            begins(begin, now) if begin else None,
            ends(end, now) if end else None,
            only,
            measure,
        )
    except ValueError as error:
        fail(str(error))


def _log_directory(config: Path, *, as_json: bool) -> Path:
    return Path(loaded_or_exit(config, as_json=as_json).config.logging.dir)


def _print(report: Report, question: Question, form: Format, limit: int | None, *, chart: bool) -> None:
    total, strays = report.total(), report.strays()
    warn_of(strays)
    rows = islice(report.rows(), limit)
    if form is Format.CSV:
        write_csv(question, rows, sys.stdout)
    elif form is Format.JSON:
        write_json(question, rows, total, strays, sys.stdout)
    else:
        _print_table(question, list(islice(report.rows(), (limit or _MOST_LINES) + 1)), limit, total, chart=chart)


def _print_table(question: Question, found: list[Row], limit: int | None, total: Row, *, chart: bool) -> None:
    rows = found[: limit or _MOST_LINES]
    print_wide(table(question, rows, total))
    if len(rows) < len(found) and limit is None:
        err.print(f"There are more than {len(rows)} rows: --limit shows more, --format csv and json have them all.")
    if chart:
        out.print()
        print_wide(bars(question, rows))
