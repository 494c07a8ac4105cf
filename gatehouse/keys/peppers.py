"""The peppers of a configuration, read from the environment or files."""

from collections.abc import Mapping

from gatehouse.config.model import Keys
from gatehouse.config.problem import ConfigError, Problem
from gatehouse.config.secret import resolve
from gatehouse.contract.key_digest import Hasher

SHORTEST = 16
"""Bytes. A pepper that can be guessed protects no digest."""


def hasher(settings: Keys, environment: Mapping[str, str] | None = None) -> Hasher:
    """The `Hasher` of `settings`. Raises `ConfigError` for a pepper that is missing or too short; it shows none."""
    return Hasher({version: _pepper(version, settings.peppers[version], environment) for version in settings.peppers})


def _pepper(version: str, reference: str, environment: Mapping[str, str] | None) -> bytes:
    field = f"keys.peppers.{version}"
    pepper = resolve(reference, field, environment)
    if len(pepper) < SHORTEST:
        hint = "make one with: openssl rand -hex 32"
        raise ConfigError([Problem(reference, None, field, f"is shorter than {SHORTEST} bytes", hint)])
    return pepper
