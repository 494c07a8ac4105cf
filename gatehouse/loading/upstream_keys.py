"""Checks that the credentials for model servers exist. Envoy reads and uses them."""

from collections.abc import Mapping

from gatehouse.config.model import Config
from gatehouse.config.problem import ConfigError, Problem
from gatehouse.config.secret import resolve


def check_upstream_keys(config: Config, environment: Mapping[str, str] | None = None) -> None:
    """Raises `ConfigError`, which shows no secret, for a key that is missing or not valid in a header."""
    for name, model in config.models.items():
        reference = model.upstream_api_key
        if reference is None:
            continue
        field = f"models.{name}.upstream_api_key"
        secret = resolve(reference, field, environment).rstrip()
        if any(byte < 0x20 or byte == 0x7F for byte in secret):
            raise ConfigError(
                [Problem(reference, None, field, "not valid in a header: it contains control characters", None)]
            )
