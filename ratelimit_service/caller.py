"""The caller of a request and what it asks for, from the descriptor that Envoy sends with every request to a model."""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from gatehouse.contract.asks import NOTHING_SAID, Asks, parsed

_ABSENT = ("", "-")


class Entry(Protocol):
    """A descriptor entry, as in Envoy's `RateLimitDescriptor.Entry`."""

    @property
    def key(self) -> str: ...
    @property
    def value(self) -> str: ...


class Caller(NamedTuple):
    """One request to a model, and what it asks for.

    `key_limits` are the limits of the key itself, in JSON, counted under `key_family`, or else under `key_id`.
    """

    user: str
    team: str = ""
    tier: str = ""
    key_id: str = ""
    model: str = ""
    request_id: str = ""
    asks: Asks = NOTHING_SAID
    key_limits: str = ""
    key_family: str = ""


def caller(entries: Iterable[Entry]) -> Caller:
    """The caller in a descriptor. Entries of other names are ignored, absent values are empty."""
    value_of = {entry.key: value for entry in entries if (value := entry.value) not in _ABSENT}.get
    return Caller(
        value_of("user", ""),
        value_of("team", ""),
        value_of("tier", ""),
        value_of("key_id", ""),
        value_of("model", ""),
        value_of("request_id", ""),
        parsed(value_of("asks", "")) or NOTHING_SAID,
        value_of("key_limits", ""),
        value_of("key_family", ""),
    )
