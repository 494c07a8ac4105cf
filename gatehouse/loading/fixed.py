"""Fields that a running gateway can't change: a configuration that changes one is rejected until a restart.

They configure Envoy's listener and its filter chain (changing those would cut streams), or what processes open only
once: sockets, stores, directories. All other fields can change while requests run.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from gatehouse.config.model import Config
from gatehouse.config.places import Path
from gatehouse.loading.key_table import Finding

FIXED: tuple[Path, ...] = (
    ("server", "host"),
    ("server", "port"),
    ("server", "workers"),
    ("server", "metrics_host"),
    ("server", "metrics_port"),
    ("server", "cors"),
    ("server", "trusted_proxy_hops"),
    ("server", "max_body_mb"),
    ("server", "tls"),
    ("server", "max_connections"),
    ("server", "max_memory_mb"),
    ("logging", "dir"),
    ("logging", "bodies"),
    ("logging", "body_sample"),
    ("keys", "peppers"),
    ("key_store",),
    ("redis",),
    ("limits",),
    ("tracing",),
)
"""Fields and whole sections."""

MESSAGE = "can't change while the gateway runs"
HINT = "to change it, restart with: gatehouse up --replace, which cuts no stream"


def restart_needed(old: Config, new: Config) -> list[Path]:
    """The changed fields that need a restart. Empty: the change from `old` to `new` can be applied.

    Depends on nothing else, so that all processes of a gateway decide alike.
    """
    return [field for path in FIXED for field in _differing(path, _at(old, path), _at(new, path))]


def changed_fields(old: Config, new: Config) -> list[str]:
    """The names of all fields that differ, such as `server.drain_s`."""
    sections = _differing((), old, new)
    return [".".join(map(str, path)) for at in sections for path in _differing(at, _at(old, at), _at(new, at))]


def faults(old: Config | None, new: Config) -> Iterator[Finding]:
    """The same as findings; none if there is no configuration yet."""
    return ((path, MESSAGE, HINT) for path in (restart_needed(old, new) if old else ()))


def _at(config: Config, path: Path) -> Any:
    value: Any = config
    for name in path:
        value = getattr(value, str(name))
    return value


def _differing(path: Path, old: Any, new: Any) -> Iterator[Path]:
    if not (isinstance(old, BaseModel) and isinstance(new, BaseModel)):
        return iter([path] if old != new else [])
    return ((*path, name) for name in type(new).model_fields if getattr(old, name) != getattr(new, name))
