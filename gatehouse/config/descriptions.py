"""The descriptions of `gatehouse.yaml`'s fields: the texts below the fields in `model.py`, for editors and the docs.

They are read from the source on demand. Pydantic could collect them when the classes are created
(`use_attribute_docstrings`), but would parse the source in every process that starts: 17 ms of CPU each.
"""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from gatehouse.config import model

Texts = Mapping[str, Mapping[str, str]]
"""Class name -> field -> text."""

_LINK = re.compile(r" \(\[[^]]+]\([^)]+\)\)|\[([^]]+)]\([^)]+\)")


def descriptions() -> dict[str, dict[str, str]]:
    """Texts in Markdown, without line breaks. Links are relative to `docs/`."""
    tree = ast.parse(inspect.getsource(model))
    return {each.name: dict(_described(each.body)) for each in tree.body if isinstance(each, ast.ClassDef)}


def _described(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    """A text describes all fields between it and the previous text: one for all periods of a limit."""
    fields: list[str] = []
    for statement in body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            fields.append(statement.target.id)
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            text = " ".join(str(statement.value.value).split())
            yield from ((field, text) for field in fields)
            fields = []


def of_model(described: Texts, cls: type[BaseModel]) -> dict[str, str]:
    """Field -> text, inherited fields included."""
    mine = [described.get(each.__name__, {}) for each in reversed(cls.__mro__)]
    return {field: text for texts in mine for field, text in texts.items()}


def raw_schema() -> dict[str, Any]:
    """The JSON Schema of `gatehouse.yaml`, without the texts of fields."""
    return model.Config.model_json_schema()


def schema() -> dict[str, Any]:
    """The JSON Schema of `gatehouse.yaml`, with the texts as descriptions. Links are left out."""
    described, result = descriptions(), raw_schema()
    for name, part in {**result["$defs"], "Config": result}.items():
        part["description"] = _LINK.sub(r"\1", part["description"])
        for field, text in of_model(described, getattr(model, name)).items():
            if field in part["properties"]:
                part["properties"][field]["description"] = _LINK.sub(r"\1", text)
    return result
