"""`gatehouse keys`: what operators do with keys."""

import sys

import typer

from gatehouse.cli.options import AsJson, fail, print_json
from gatehouse.keys.digest import PREFIX, key_digest

app = typer.Typer(no_args_is_help=True, help="Keys: what to write into the configuration instead of the key itself.")


@app.callback()
def _group() -> None:
    pass


@app.command("hash")
def hash_(as_json: AsJson = False) -> None:
    """Read a key from standard input (typed unseen on a terminal) and print the `sha256:…` that stands for it."""
    key = typer.prompt("Key", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline().strip()
    try:
        if key.startswith(PREFIX):
            raise ValueError("this already is a hash")
        digest = key_digest(key)
    except ValueError as error:
        fail(str(error))
    if as_json:
        print_json({"hash": digest})
    else:
        typer.echo(digest)
