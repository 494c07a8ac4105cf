"""Does everything that a key names exist in the configuration?"""

from collections.abc import Collection, Sequence

from gatehouse.config.model import Config
from gatehouse.config.problem import nearest
from gatehouse.contract.key_digest import pepper_of
from gatehouse.contract.model_patterns import matcher
from gatehouse.keys.record import KeyRecord


def misfit(key: KeyRecord, config: Config) -> str | None:
    """The first name in `key` that `config` does not have, with the nearest that it has; None if all exist."""
    if config.rate_limits and key.tier not in config.rate_limits:
        return _unknown("tier", key.tier, config.rate_limits)
    if key.team and config.teams and key.team not in config.teams:
        return _unknown("team", key.team, config.teams)
    version = pepper_of(key.digest)
    if version is not None and version not in config.keys.peppers:
        return f"no pepper has the version '{version}' (set keys.peppers.{version})"
    return _unknown_model(key.models, config)


def _unknown(kind: str, name: str, valid: Collection[str]) -> str:
    hint = nearest(name, valid) or f"there are {_few(valid)}"
    return f"no {kind} is called '{name}' ({hint})"


def _few(names: Collection[str]) -> str:
    shown = sorted(names)[:8]
    return ", ".join(shown) + (", …" if len(names) > len(shown) else "")


def _unknown_model(patterns: Sequence[str], config: Config) -> str | None:
    """In the short form every name is a model."""
    known = config.known_models() if config.models else []
    for pattern in patterns if known else ():
        if not any(map(matcher([pattern]), known)):
            hint = nearest(pattern, known) or f"there are {_few(known)}"
            return f"no model is called, or matches, '{pattern}' ({hint})"
    return None
