"""Who asks, and for what: the gateway's own descriptor, as Envoy sends it with every request to a model."""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

_ABSENT = ("", "-")


class Entry(Protocol):
    """A descriptor entry, as in Envoy's `RateLimitDescriptor.Entry`."""

    @property
    def key(self) -> str: ...
    @property
    def value(self) -> str: ...


class Caller(NamedTuple):
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
    said = {entry.key: value for entry in entries if (value := entry.value) not in _ABSENT}.get
    return Caller(
        said("user", ""),
        said("team", ""),
        said("tier", ""),
        said("key_id", ""),
        said("model", ""),
        said("request_id", ""),
        _count(said("max_tokens")),
        _count(said("body_bytes")),
        said("key_limits", ""),
        said("key_family", ""),
    )


def _count(text: str | None) -> int | None:
    """A client may write anything here: what is no plain number says nothing."""
    return int(text) if text and len(text) <= 12 and text.isascii() and text.isdigit() else None
