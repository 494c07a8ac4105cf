"""Settings from environment variables, which override the file.

Six short names, and any field as `GATEHOUSE_SECTION__FIELD` (`GATEHOUSE_SERVER__PORT=8080`). Variables without `__`
are ours only where they name a plain top-level field: Kubernetes sets `GATEHOUSE_PORT` for a Service of that name.
"""

from collections.abc import Mapping
from typing import Any

import yaml

from gatehouse.config.places import Path
from gatehouse.config.problem import VARIABLE, ConfigError, Problem
from gatehouse.config.source import dotted

SHORT_NAMES: Mapping[str, Path] = {
    "VLLM_BASE_URL": ("vllm", "base_url"),
    "VLLM_DEFAULT_MODEL": ("vllm", "default_model"),
    "REQUIRE_HTTPS": ("server", "require_https"),
    "LOG_LEVEL": ("logging", "level"),
    "REDIS_URL": ("redis", "url"),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("tracing", "otlp_endpoint"),
}
PREFIX = "GATEHOUSE_"
_TEXT = {
    ("vllm", "base_url"),
    ("vllm", "default_model"),
    ("redis", "url"),
    ("tracing", "otlp_endpoint"),
    ("default_model",),
}


def overrides(environment: Mapping[str, str]) -> dict[Path, tuple[str, Any]]:
    """The settings of the environment: path -> (variable, value). Empty variables are ignored."""
    found: dict[Path, tuple[str, Any]] = {}
    for variable in sorted(environment):
        path = _path(variable)
        if path and environment[variable] != "":
            found[path] = (variable, _value(variable, path, environment[variable]))
    return found


def _path(variable: str) -> Path | None:
    if variable in SHORT_NAMES:
        return SHORT_NAMES[variable]
    if not variable.startswith(PREFIX):
        return None
    path = tuple(variable.removeprefix(PREFIX).lower().split("__"))
    return path if len(path) > 1 or path == ("default_model",) else None


def _value(variable: str, path: Path, text: str) -> Any:
    if path in _TEXT:
        return text
    if path == ("logging", "level"):
        return text.lower()
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        origin = f"{VARIABLE}{variable}"
        raise ConfigError([Problem(origin, None, dotted(path), "this value can't be read")]) from None


def apply(data: dict[str, Any], found: Mapping[Path, tuple[str, Any]]) -> dict[str, Any]:
    """A copy of `data` with the values of `found`."""
    result = dict(data)
    for path, (_, value) in found.items():
        _put(result, path, value)
    return result


def _put(data: dict[str, Any], path: Path, value: Any) -> None:
    head, *rest = path
    if not rest:
        data[str(head)] = value
        return
    inner = data.get(str(head))
    data[str(head)] = inner = dict(inner) if isinstance(inner, dict) else {}
    _put(inner, tuple(rest), value)
