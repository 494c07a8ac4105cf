"""What the store has yet to hear of requests that ran while it was away."""

from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from ratelimit_service.store.port import Ask, Charge, Renewal, Settlement


class Admission(NamedTuple):
    """A request that was admitted without the store, to be charged there. `name` is its own, however often it is told;
    `unsure`: it has been told before, and nobody knows whether the store has heard."""

    name: str
    ask: Ask
    unsure: bool = False


class Refund(NamedTuple):
    """Charges that the store holds for a request that was never let through."""

    name: str
    charges: tuple[Charge, ...]


Event = Admission | Refund | Settlement | Renewal


class Backlog:
    """A queue of at most `most` events, each of them once; when it is full, the oldest makes room.

    The oldest matters least: its windows end first, and its leases lapse by themselves. At about 1 KB an event the
    default is 32 MB.
    """

    def __init__(self, most: int = 32_768) -> None:
        self._most = most
        self._events: OrderedDict[Event, None] = OrderedDict()  # a plain dict is slow at finding its oldest

    def __len__(self) -> int:
        return len(self._events)

    def add(self, events: Iterable[Event]) -> int:
        """Keep the events until they are removed. Returns how many were dropped to make room."""
        self._events.update(dict.fromkeys(events))
        dropped = max(0, len(self._events) - self._most)
        for _ in range(dropped):
            self._events.popitem(last=False)
        return dropped

    def oldest(self, most: int) -> list[Event]:
        """The first events in the queue, which stay there."""
        return list(islice(self._events, most))

    def remove(self, event: Event) -> None:
        self._events.pop(event, None)

    def unsure(self, event: Event) -> None:
        """The event was told, and nobody knows whether the store has heard. An admission stays as one that is unsure,
        at the end of the queue."""
        if isinstance(event, Admission) and not event.unsure:
            self.remove(event)
            self.add([event._replace(unsure=True)])
