"""Who asks, and for what: the gateway's own descriptor, as Envoy sends it with every request to a model."""

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
    """The caller that a descriptor describes. Entries of other names are ignored, absent values are empty."""
    said = {entry.key: value for entry in entries if (value := entry.value) not in _ABSENT}.get
    return Caller(
        said("user", ""),
        said("team", ""),
        said("tier", ""),
        said("key_id", ""),
        said("model", ""),
        said("request_id", ""),
        parsed(said("asks", "")) or NOTHING_SAID,
        said("key_limits", ""),
        said("key_family", ""),
    )
