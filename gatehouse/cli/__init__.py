"""The `gatehouse` command: one file a command."""

from typing import Any

import typer
from typer.core import TyperGroup

from gatehouse import __version__
from gatehouse.cli import check, doctor, drain, explain, keys, reconcile, render, schema, simulate, up, usage
from gatehouse.cli.options import fail
from gatehouse.contract.failures import GatehouseError


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """One of our own errors ends a command with its message and its exit status."""
        try:
            return super().invoke(ctx)
        except GatehouseError as error:
            fail(str(error), error.exit_status)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="An API gateway for vLLM: keys, limits and metering in front of your own model servers.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gatehouse {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


app.command("up")(up.up)
app.command("check")(check.check)
app.command("doctor")(doctor.doctor)
app.command("render")(render.render_files)
app.command("drain")(drain.drain)
app.command("explain")(explain.explain)
app.command("schema")(schema.schema)
app.add_typer(keys.app, name="keys")
usage.app.command("reconcile")(reconcile.reconcile)
app.add_typer(usage.app, name="usage")
app.command("simulate")(simulate.simulate)


def main() -> None:
    app()
