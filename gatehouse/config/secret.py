"""Secrets by reference: `env:NAME`, `file:PATH`. A configuration names where a secret is, and never holds it."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from gatehouse.config.problem import ConfigError, Problem

_REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+")


def reference(value: str) -> str:
    """`value`, if it is a reference to a secret. Raises `ValueError`."""
    if not _REFERENCE.fullmatch(value):
        raise ValueError("must say where it is kept: env:NAME (an environment variable) or file:PATH")
    return value


SecretReference = Annotated[str, AfterValidator(reference)]


def resolve(reference: str, field: str, environment: Mapping[str, str] | None = None) -> bytes:
    """The secret behind `reference`, which the configuration has at `field`; without the last line end of a file.

    Raises `ConfigError`, which names the field and what to do, and never shows the secret.
    """
    kind, _, place = reference.partition(":")
    secret = _variable(place, field, environment) if kind == "env" else _file(place, field)
    if not secret:
        raise ConfigError([Problem(_origin(kind, place), None, field, "the secret is empty")])
    return secret


def _variable(name: str, field: str, environment: Mapping[str, str] | None) -> bytes:
    value = (os.environ if environment is None else environment).get(name)
    if value is None:
        raise ConfigError([Problem(_origin("env", name), None, field, "is not set", f"export {name}=…")])
    return value.encode("utf-8", "surrogateescape")


def _file(path: str, field: str) -> bytes:
    try:
        return Path(path).read_bytes().removesuffix(b"\n").removesuffix(b"\r")
    except OSError as error:
        hint = "create it, readable by the user the gateway runs as"
        raise ConfigError(
            [Problem(path, None, field, f"can't be read: {error.strerror}", hint, passing=True)]
        ) from None


def _origin(kind: str, place: str) -> str:
    return f"environment variable {place}" if kind == "env" else place
