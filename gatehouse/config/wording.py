"""Rewrites Pydantic's validation errors in our words."""

from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from gatehouse.config.model import Config
from gatehouse.config.places import Path
from gatehouse.config.problem import nearest


def explained(error: ErrorDetails, path: Path) -> tuple[str, str | None]:
    """Message and hint for a validation error. Never repeats the value: it may be a secret."""
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
            return "must be a mapping of fields", None
        case "too_short":
            return "must have at least one", None
        case "tuple_type":
            return "must be a list", None
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
