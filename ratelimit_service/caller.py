"""Who asks, and for what: the gateway's own descriptor, as Envoy sends it with every request to a model."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

_ABSENT = ("", "-")


class Entry(Protocol):
    """A descriptor entry, as in Envoy's `RateLimitDescriptor.Entry`."""

    @property
    def key(self) -> str: ...
    @property
    def value(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Caller:
    """One request to a model. `max_tokens` and `body_bytes` are None when the request does not say.

    `key_limits` are the limits of the key itself, in JSON, counted under `key_family`, or else under `key_id`.
    """

    user: str
    team: str = ""
    tier: str = ""
    key_id: str = ""
    model: str = ""
    request_id: str = ""
    max_tokens: int | None = None
    body_bytes: int | None = None
    key_limits: str = ""
    key_family: str = ""


def caller(entries: Iterable[Entry]) -> Caller:
    """The caller that a descriptor describes. Entries of other names are ignored, absent values are empty."""
    said = {entry.key: entry.value for entry in entries if entry.value not in _ABSENT}
    return Caller(
        user=said.get("user", ""),
        team=said.get("team", ""),
        tier=said.get("tier", ""),
        key_id=said.get("key_id", ""),
        model=said.get("model", ""),
        request_id=said.get("request_id", ""),
        max_tokens=_count(said.get("max_tokens")),
        body_bytes=_count(said.get("body_bytes")),
        key_limits=said.get("key_limits", ""),
        key_family=said.get("key_family", ""),
    )


def _count(text: str | None) -> int | None:
    """A client may write anything here: what is no plain number says nothing."""
    return int(text) if text and len(text) <= 12 and text.isascii() and text.isdigit() else None
