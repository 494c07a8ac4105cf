"""Which models a key sees, in the shape of OpenAI's `/v1/models`. Pure."""

import re
from collections.abc import Iterable
from typing import Any

from gatehouse.errors import MODEL_NOT_ALLOWED, MODEL_NOT_FOUND, ClientError

Entry = dict[str, Any]
"""One model: `{"id", "object": "model", "created", "owned_by"}`, and whatever else a model server says of it."""


def entries(names: Iterable[str], created: int) -> list[Entry]:
    """Entries for models that the configuration names. `created` is a Unix time in seconds."""
    return [{"id": name, "object": "model", "created": created, "owned_by": "gatehouse"} for name in names]


def allowed(catalogue: Iterable[Entry], pattern: str | None) -> list[Entry]:
    """Those whose whole name matches `pattern`. No pattern, or one that can't be read, allows nothing."""
    try:
        match = re.compile(pattern or "(?!)").fullmatch
    except re.error:
        return []
    return [entry for entry in catalogue if match(entry["id"])]


def find(catalogue: Iterable[Entry], name: str, pattern: str | None) -> Entry | ClientError:
    """The entry called `name`, or the error of one who asks for what is not there, or not for them."""
    found = [entry for entry in catalogue if entry["id"] == name]
    if not found:
        return MODEL_NOT_FOUND
    return next(iter(allowed(found, pattern)), MODEL_NOT_ALLOWED)
