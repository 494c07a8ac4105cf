"""Bounds the number of label values in metrics and the tally, whatever clients send: unknown names become `other`."""

from collections.abc import Iterable

OTHER = "other"
NONE = ""
"""Label value if a request has no user (it was not authorized) or names no model."""

MAX_MODELS = 200


class Names:
    """The values of one label: those known from the start, and up to `room` more."""

    def __init__(self, known: Iterable[str], room: int = 0) -> None:
        self._known = set(known)
        self._room = room

    def know(self, more: Iterable[str]) -> None:
        """Add known values."""
        self._known.update(more)

    def label(self, name: str | None, genuine: bool = True) -> str:
        """The label for `name`. A new name is added only if it is `genuine`: not just claimed by a client."""
        if not name:
            return NONE
        if name not in self._known:
            if not genuine or self._room == 0:
                return OTHER
            self._room -= 1
            self._known.add(name)
        return name
