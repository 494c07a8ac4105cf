"""Credentials for model servers: whether they are there, and could stand in a header."""

from collections.abc import Mapping

from gatehouse.config.model import Config
from gatehouse.config.problem import ConfigError, Problem
from gatehouse.config.secret import resolve


def check_upstream_keys(config: Config, environment: Mapping[str, str] | None = None) -> None:
    """Raises `ConfigError`, which shows no secret, for a key that is missing or could stand in no header."""
    for name, model in config.models.items():
        if model.upstream_api_key is None:
            continue
        field = f"models.{name}.upstream_api_key"
        secret = resolve(model.upstream_api_key, field, environment).rstrip()
        if any(byte < 0x20 or byte == 0x7F for byte in secret):
            message = "holds characters that no header may have"
            raise ConfigError([Problem(model.upstream_api_key, None, field, message, None)])
