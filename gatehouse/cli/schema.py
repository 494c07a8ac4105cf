"""`gatehouse schema`: JSON Schema of the configuration, for editors."""

import json

import typer

from gatehouse.config import descriptions


def schema() -> None:
    """Print the JSON Schema of gatehouse.yaml (`# yaml-language-server: $schema=…` makes editors use it)."""
    typer.echo(json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **descriptions.schema()}))
