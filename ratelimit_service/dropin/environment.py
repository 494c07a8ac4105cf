"""Reading envoyproxy/ratelimit's environment: Go's value formats, and variables without effect here."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ValidationError

from gatehouse.contract.failures import GatehouseError
from ratelimit_service.dropin.config.yaml_nodes import integer

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)"
M = TypeVar("M", bound=BaseModel)


class SettingsError(GatehouseError):
    """Invalid variables, one a line, without their values: some are secrets."""


def seconds(text: object) -> object:
    """`1h30m`, as Go's time.ParseDuration reads it -> seconds. A plain 0 needs no unit."""
    if not isinstance(text, str) or text == "0":
        return text
    if not re.fullmatch(f"[-+]?(?:{_PART})+", text):
        raise ValueError("must be a duration such as 500ms, 10s or 1h30m")
    amount = sum(float(number) * _UNITS_S[unit] for number, unit in re.findall(_PART, text))
    return -amount if text[0] == "-" else amount


def whole(text: object) -> object:
    """`8080`, `0x1F90` or `017`, as Go's strconv.ParseInt reads it."""
    if not isinstance(text, str):
        return text
    number = integer(text.replace("_", ""))
    if number is None:
        raise ValueError("must be a whole number")
    return number


Seconds = Annotated[float, BeforeValidator(seconds)]
Whole = Annotated[int, BeforeValidator(whole)]


def read(model: type[M], environment: Mapping[str, str], prefix: str = "") -> M:
    """`model`, each field from the variable of its name in upper case after `prefix`; an empty one counts as unset.

    Raises `SettingsError`.
    """
    names = {field: f"{prefix}{field.upper()}" for field in model.model_fields}
    values = {field: environment[name] for field, name in names.items() if environment.get(name)}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = (f"{names.get(str(e['loc'][0]), prefix) if e['loc'] else prefix}: {e['msg']}" for e in error.errors())
        raise SettingsError("\n".join(faults)) from None


_PROMETHEUS = "statsd is not supported: set USE_PROMETHEUS=true and scrape PROMETHEUS_ADDR"
_IGNORED = (
    (r"USE_STATSD|STATSD_HOST|STATSD_PORT|USE_DOG_STATSD.*|DOG_STATSD_MOGRIFIER.*|STATS_FLUSH_INTERVAL", _PROMETHEUS),
    (r"EXTRA_TAGS|PROMETHEUS_MAPPER_YAML|PROMETHEUS_RESPONSE_TIME_AS_MILLISECONDS|DISABLE_STATS", "has no effect here"),
    (r"MEMCACHE_.*", "Memcached is not supported"),
    (r"CONFIG_GRPC_XDS_.*|XDS_CLIENT_.*", "configuration over xDS is not supported; use files"),
    (r"TRACING_.*", "tracing is not supported"),
    (
        r"REDIS_(PERSECOND_)?PIPELINE_(WINDOW|LIMIT)|REDIS_CLUSTER_PIPELINE_PARALLELISM",
        "requests share round trips anyway",
    ),
    (r"REDIS_PERSECOND_CLUSTER_PIPELINE_PARALLELISM", "requests share round trips anyway"),
    (r"EXPIRATION_JITTER_MAX_SECONDS", "has no effect: counts end a minute after their window"),
)
_OFF = ("", "0", "f", "F", "false", "FALSE", "False")


def ignored(environment: Mapping[str, str]) -> Iterator[str]:
    """One line for each variable that is set but has no effect here."""
    for name in sorted(environment):
        if environment[name] in _OFF:
            continue
        yield from (f"{name} is ignored: {why}" for pattern, why in _IGNORED if re.fullmatch(pattern, name))
