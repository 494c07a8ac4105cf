"""Limits of a single key as JSON: in the store, in authz_service, and with each request to the limiter.

One text for one set of limits, so that it can be compared, cached and kept in a `KeyRecord`.
"""

import json

from gatehouse.config.model import Limits

_HOW = {"algorithm", "shadow"}
"""Fields that say how limits count. Without a limit they say nothing."""


def canonical(limits: Limits | None) -> str:
    """JSON with sorted names and without what is not set; empty when nothing is limited."""
    said = limits.model_dump(exclude_defaults=True) if limits else {}
    return json.dumps(said, sort_keys=True, separators=(",", ":")) if said.keys() - _HOW else ""


def parsed(text: str) -> Limits:
    """The limits that `text` is the JSON of; none at all when it is empty. Raises `ValueError`."""
    return Limits.model_validate_json(text) if text else Limits()
