"""A dictionary whose entries expire."""

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

_SMALL = 1024


class Expiring(Generic[K, V]):
    """Entries expire at their end. Times are integers of any one unit.

    Memory is bounded by twice the live entries plus a constant: when the dictionary has doubled since the last sweep,
    all expired entries are dropped, so a sweep costs O(1) per entry put.
    """

    def __init__(self) -> None:
        self._entries: dict[K, tuple[V, int]] = {}
        self._sweep_at = _SMALL

    def __len__(self) -> int:
        """The number of entries, including expired ones that are not swept yet."""
        return len(self._entries)

    def get(self, key: K, now: int) -> V | None:
        value, end = self._entries.get(key, (None, now))
        return value if now < end else None

    def put(self, key: K, value: V, end: int, now: int) -> None:
        if end <= now:
            self._entries.pop(key, None)
            return
        self._entries[key] = (value, end)
        if len(self._entries) >= self._sweep_at:
            self._entries = {k: entry for k, entry in self._entries.items() if now < entry[1]}
            self._sweep_at = max(_SMALL, 2 * len(self._entries))
