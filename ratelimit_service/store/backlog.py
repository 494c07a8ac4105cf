"""Events that the store missed while it was unavailable, queued to be sent later."""

from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from ratelimit_service.store.port import Ask, Charge, Renewal, Settlement


class Admission(NamedTuple):
    """A request that was admitted without the store, to be charged there. `name` is unique, and the same at every
    attempt; `unsure`: it was sent before, and whether the store got it is unknown."""

    name: str
    ask: Ask
    unsure: bool = False


class Refund(NamedTuple):
    """Charges that the store holds for a request that was not admitted."""

    name: str
    charges: tuple[Charge, ...]


Event = Admission | Refund | Settlement | Renewal


class Backlog:
    """A queue of at most `most` distinct events; when it is full, the oldest is dropped.

    The oldest matters least: its windows end first, and its leases expire by themselves. At about 1 KB an event the
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
        """The first events in the queue, without removing them."""
        return list(islice(self._events, most))

    def remove(self, event: Event) -> None:
        self._events.pop(event, None)

    def unsure(self, event: Event) -> None:
        """The event was sent, and whether the store got it is unknown. An admission is kept, as unsure, at the end of
        the queue."""
        if isinstance(event, Admission) and not event.unsure:
            self.remove(event)
            self.add([event._replace(unsure=True)])
