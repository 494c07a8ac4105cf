"""What was left of each limit when the shared store last decided on it."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from ratelimit_service.store.memory import epoch_ms
from ratelimit_service.store.port import Bucket, Charge, Decision, Outcome


class Sight(NamedTuple):
    """An outcome, and the time `at` which it was seen, in milliseconds."""

    outcome: Outcome
    at: int


class Seen:
    """The last outcome of each of the most recently used buckets, at least `most` and at most twice as many.

    Two dictionaries, the older of which is dropped when the younger is full, evict in constant time.
    """

    def __init__(self, clock: Callable[[], int] = epoch_ms, most: int = 32_768) -> None:
        self._clock = clock
        self._most = most
        self._young: dict[Bucket, Sight] = {}
        self._old: dict[Bucket, Sight] = {}

    def note(self, decision: Decision) -> None:
        now = self._clock()
        for outcome in decision.outcomes:
            self._young[outcome.charge.bucket] = Sight(outcome, now)
        if len(self._young) >= self._most:
            self._young, self._old = {}, self._young

    def get(self, bucket: Bucket) -> Sight | None:
        return self._young.get(bucket) or self._old.get(bucket)

    def used(self) -> Iterator[Charge]:
        """What the store had counted and still counts: for each bucket one charge with all of its hits."""
        now = self._clock()
        for outcome, at in {**self._old, **self._young}.values():
            charge = outcome.charge
            hits = charge.limit.capacity - min(outcome.remaining, charge.limit.capacity)
            if hits and at + outcome.reset_after_ms > now:
                yield charge._replace(hits=hits, reserve=False)
