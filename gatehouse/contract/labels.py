"""Names that stay few whatever clients send, for metrics and for the tally: what is not known is `other`."""

from collections.abc import Iterable

OTHER = "other"
NONE = ""
"""The label of what a request has not: a user before it is authorized, a model where none is asked for."""

MAX_MODELS = 200


class Names:
    """The values of one label: those known from the start, and up to `room` more that are met."""

    def __init__(self, known: Iterable[str], room: int = 0) -> None:
        self._known = set(known)
        self._room = room

    def know(self, more: Iterable[str]) -> None:
        """These are known from now on."""
        self._known.update(more)

    def label(self, name: str | None, genuine: bool = True) -> str:
        """The label for `name`. A new name takes a place only if it is `genuine`: more than a client's word."""
        if not name:
            return NONE
        if name not in self._known:
            if not genuine or self._room == 0:
                return OTHER
            self._room -= 1
            self._known.add(name)
        return name
