"""`gatehouse keys hash`: the digest of a key, to write into a file instead of the key itself."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from gatehouse.cli.options import BAD_CONFIG, DEFAULT_CONFIG, AsJson, fail, loaded_or_exit, print_json
from gatehouse.config import ConfigError
from gatehouse.config.model import Keys
from gatehouse.contract.key_digest import is_plain, key_digest
from gatehouse.keys.format import Kind, kind_of
from gatehouse.keys.peppers import hasher


def hash_(
    config: Annotated[
        Path | None,
        typer.Option("-c", "--config", help="The configuration that names peppers, if any does."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read a key from standard input (a terminal doesn't show it) and print its digest for a configuration file."""
    settings = _settings(config, as_json=as_json)
    key = typer.prompt("Key", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline().strip()
    try:
        if not is_plain(key):
            raise ValueError("this already is a hash")
        if kind_of(key, settings.prefix) is Kind.MANGLED:
            raise ValueError("this is a minted key with a mistake in it: its checksum is wrong; copy it again")
        key_digest(key)
        digest = hasher(settings).newest(key)
    except ConfigError as error:
        fail(str(error), BAD_CONFIG)
    except ValueError as error:
        fail(str(error))
    if as_json:
        print_json({"hash": digest})
    else:
        typer.echo(digest)


def _settings(file: Path | None, *, as_json: bool) -> Keys:
    """Without a configuration there are no peppers."""
    if file is None and not DEFAULT_CONFIG.exists():
        return Keys()
    return loaded_or_exit(file or DEFAULT_CONFIG, as_json=as_json).config.keys
