"""`gatehouse.yaml` + environment -> `Config`, or every fault with its file, line and path."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gatehouse.config import environment as env
from gatehouse.config import rules
from gatehouse.config.model import Config
from gatehouse.config.problem import ConfigError, Problem, nearest
from gatehouse.config.source import Path, Source, dotted, parse
from gatehouse.keys.digest import is_plain


@dataclass(frozen=True, slots=True)
class Loaded:
    """A usable configuration, with advice on it and the first key a person could try (None when all are hashed)."""

    config: Config
    warnings: tuple[Problem, ...]
    plain_key: str | None


def load(file: FilePath, environment: Mapping[str, str] | None = None) -> Config:
    """Read and check `file`. Raises `ConfigError` with everything that is wrong with it."""
    return load_with_advice(file, environment).config


def load_with_advice(file: FilePath, environment: Mapping[str, str] | None = None) -> Loaded:
    """As `load`, with the warnings beside it."""
    return _Reader(_parsed(file), os.environ if environment is None else environment).read()


def _parsed(file: FilePath) -> Source:
    try:
        source = parse(file.read_text("utf-8"), str(file))
    except UnicodeDecodeError:
        raise ConfigError([Problem(str(file), None, "", "not UTF-8 text")]) from None
    except OSError as error:
        raise ConfigError([Problem(str(file), None, "", f"can't be read: {error.strerror}")]) from None
    if source.data is None:
        source.data = {}
    if not isinstance(source.data, dict):
        raise ConfigError([Problem(str(file), 1, "", "must hold settings such as 'server:' and 'vllm:'")])
    return source


class _Reader:
    def __init__(self, source: Source, environment: Mapping[str, str]) -> None:
        self._source = source
        self._overrides = env.overrides(environment)

    def read(self) -> Loaded:
        data = env.apply(self._source.data, self._overrides)
        try:
            config = Config.model_validate(data)
        except ValidationError as error:
            raise ConfigError(self._in_order(map(self._problem, error.errors()))) from None
        keys = list(data.get("api_keys") or {})
        faults = [self._found(*finding) for finding in rules.faults(config, keys)]
        if faults:
            raise ConfigError(self._in_order(faults))
        warnings = tuple(self._found(*finding) for finding in rules.advice(config, keys))
        plain = next((key for key in keys if is_plain(key)), None)
        return Loaded(config, warnings, plain)

    def _found(self, path: Path, message: str, hint: str | None) -> Problem:
        for prefix in (path[:end] for end in range(len(path), 0, -1)):
            if prefix in self._overrides:
                return Problem(f"environment variable {self._overrides[prefix][0]}", None, dotted(path), message, hint)
        return Problem(self._source.origin, self._source.line(path), dotted(path), message, hint)

    def _problem(self, error: ErrorDetails) -> Problem:
        path = tuple(part for part in error["loc"] if part != "[key]")
        message, hint = _explained(error, path)
        return self._found(path, message, hint)

    def _in_order(self, problems: Iterable[Problem]) -> list[Problem]:
        return sorted(problems, key=lambda problem: problem.line or 0)


def _explained(error: ErrorDetails, path: Path) -> tuple[str, str | None]:
    """Pydantic's words for a fault in ours. Never repeats the value: it may be a secret."""
    match error["type"]:
        case "extra_forbidden":
            return "unknown field", nearest(str(path[-1]), _fields_at(path[:-1]))
        case "missing":
            return "is missing", None
        case "value_error":
            return str(error.get("ctx", {}).get("error", error["msg"])), None
        case "string_pattern_mismatch":
            return "has characters that are not allowed here", None
        case "int_type" | "int_parsing":
            return "must be a whole number", None
        case "model_type" | "dict_type":
            return "must hold named fields", None
        case _:
            return error["msg"].replace("Input should be", "must be"), None


def _fields_at(path: Path) -> list[str]:
    """The names of the fields the model has at `path`."""
    here: Any = Config
    for part in path:
        here = _inside(here, part)
    return list(here.model_fields) if _is_model(here) else []


def _inside(annotation: Any, part: str | int) -> Any:
    """What the model expects at `part` of `annotation`: a field of a model, an item of a dict or tuple."""
    if _is_model(annotation):
        field = annotation.model_fields.get(str(part))
        annotation = field.annotation if field else None
        return next(filter(_is_model, get_args(annotation)), None) if _optional(annotation) else annotation
    arguments = get_args(annotation) or (None,)
    return arguments[-1] if get_origin(annotation) is dict else arguments[0]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _optional(annotation: Any) -> bool:
    return type(None) in get_args(annotation)
