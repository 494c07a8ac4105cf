"""Which models a key sees, in the shape of OpenAI's `/v1/models`. Pure."""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from gatehouse.contract.errors import MODEL_NOT_ALLOWED, MODEL_NOT_FOUND, ClientError
from gatehouse.contract.model_patterns import EVERYTHING

Entry = dict[str, Any]
"""One model: `{"id", "object": "model", "created", "owned_by"}`, and any other fields of the model server."""

Usable = Callable[[str], bool]


def entries(names: Iterable[str], created: int) -> list[Entry]:
    """Entries for models that the configuration names. `created` is a Unix time in seconds."""
    return [{"id": name, "object": "model", "created": created, "owned_by": "gatehouse"} for name in names]


def usable(models: str | None, expressions: str | None) -> Usable:
    """Whether a caller may use a model, as Envoy decides it (`gatehouse.envoy.model_access`) from the same two lists.

    The lists are JSON. A missing or malformed list allows nothing.
    """
    names = frozenset(_texts(models))
    if EVERYTHING in names:
        return lambda _name: True
    try:
        found = [re.compile(each).search for each in _texts(expressions)]
    except re.error:
        found = []
    return lambda name: name in names or (bool(found) and all(each(name) for each in found))


def find(catalogue: Iterable[Entry], name: str, may_use: Usable) -> Entry | ClientError:
    """The entry called `name`, or an error if it does not exist or the caller may not use it."""
    found = next((entry for entry in catalogue if entry["id"] == name), None)
    if found is None:
        return MODEL_NOT_FOUND
    return found if may_use(name) else MODEL_NOT_ALLOWED


def _texts(written: str | None) -> list[str]:
    try:
        said = json.loads(written or "[]")
    except ValueError:
        return []
    return [each for each in said if isinstance(each, str)] if isinstance(said, list) else []
