"""The `gatehouse` command: one file a command."""

import typer

from gatehouse import __version__
from gatehouse.cli import check, doctor, drain, explain, keys, reconcile, render, schema, simulate, up, usage

app = typer.Typer(
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
