"""The three algorithms, as immutable states in exact integers. This is the specification; `algorithms.lua` is its twin.

Times are integer milliseconds since the epoch, `now` is always an argument, and a fresh state (`EMPTY`) means "nothing
was ever charged". Every state answers the same six questions:

* `charge(limit, hits, now)`: the state after 0 or more `hits`, however full it is. Counts stop at `MAX_AMOUNT`
  (and so do waits, at 35 years).
* `wait(limit, hits, now)`: how long until that many hits pass if nothing else happens: 0 if they pass now, None if they
  never can (`hits` above the limit's capacity). The wait is exact: one millisecond earlier they are still refused.
  0 hits ask whether one would pass: a check that charges nothing.
* `remaining(limit, now)`: the most hits that would pass now.
* `reset_after(limit, now)`: how long until nothing counts any more (a fixed window: until it ends). From then on the
  state equals `EMPTY`, so a store may drop it.
* `mark(limit, now)`: where a charge made now counts; a reservation stores it.
* `amend(limit, mark, difference, now)`: the state after a charge made at `mark` turned out to be `difference` more or
  less. What no longer counts is not given back; what is missing then is charged now.

A clock that steps back is read as the latest time that the state has seen, so a step never refills a limit.
"""

from dataclasses import dataclass
from types import MappingProxyType

from ratelimit_service.store.limits import MAX_AMOUNT, Algorithm, Limit


def _clamped(count: int) -> int:
    return min(max(count, 0), MAX_AMOUNT)


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@dataclass(frozen=True, slots=True)
class FixedWindow:
    """Counts per window that starts at a multiple of the period since the epoch, as envoyproxy/ratelimit does.

    Promise: at most `amount` hits pass in each such window, so up to twice that around a boundary.
    """

    index: int = 0
    count: int = 0

    def _at(self, limit: Limit, now: int) -> "FixedWindow":
        index = now // limit.period_ms
        return self if index <= self.index else FixedWindow(index)

    def charge(self, limit: Limit, hits: int, now: int) -> "FixedWindow":
        window = self._at(limit, now)
        return FixedWindow(window.index, _clamped(window.count + hits))

    def wait(self, limit: Limit, hits: int, now: int) -> int | None:
        need = max(hits, 1)
        if need > limit.amount:
            return None
        return 0 if need <= self.remaining(limit, now) else self.reset_after(limit, now)

    def remaining(self, limit: Limit, now: int) -> int:
        return max(0, limit.amount - self._at(limit, now).count)

    def reset_after(self, limit: Limit, now: int) -> int:
        return (self._at(limit, now).index + 1) * limit.period_ms - now

    def mark(self, limit: Limit, now: int) -> int:
        return self._at(limit, now).index

    def amend(self, limit: Limit, mark: int, difference: int, now: int) -> "FixedWindow":
        window = self._at(limit, now)
        return window.charge(limit, difference, now) if mark == window.index or difference > 0 else window


@dataclass(frozen=True, slots=True)
class Stretch:
    """`count` hits of one window, the first of them at `first` and the last at `last`.

    The times of the others are not stored; they count as spread evenly between these two.
    """

    count: int = 0
    first: int = 0
    last: int = 0

    def add(self, hits: int, now: int) -> "Stretch":
        if hits <= 0:
            return self._holding(self.count + hits)
        return Stretch(_clamped(self.count + hits), self.first if self.count else now, now)

    def correct(self, difference: int, otherwise: int) -> "Stretch":
        """Change the count but not the times; if it was empty, the hits came at the time `otherwise`."""
        return self._holding(self.count + difference) if self.count else self.add(difference, otherwise)

    def _holding(self, count: int) -> "Stretch":
        return Stretch(_clamped(count), self.first, self.last) if count > 0 else Stretch()

    def counting(self, period: int, now: int) -> int:
        """How many hits are younger than one period: all until the first leaves, none once the last has left."""
        left = self.last + period - now
        if self.count == 0 or left <= 0:
            return 0
        if now < self.first + period:
            return self.count
        return _ceil_div(max(self.count - 1, 1) * left, self.last - self.first)

    def falls_to(self, room: int, period: int) -> int:
        """The earliest time at which `counting` is at most `room`; 0 if it always is."""
        if self.count <= room:
            return 0
        return self.last + period - room * (self.last - self.first) // max(self.count - 1, 1)


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """Two counters, of this window and of the one before, whose hits fade as they become older than a period.

    The idea is Cloudflare's ("How we built rate limiting capable of scaling to millions of domains", 2017), which
    spreads the previous count evenly over its whole window; the times of the first and last hit make a burst expire
    when it should, and a limit of one hit exact.

    Promises, for hits charged as they were admitted:

    * at most `amount` in any stretch of time no longer than the period less the spread (last - first) of a window's
      hits: so for bursts, and for a limit of one hit, in any period whatsoever;
    * at most `amount + amount * d / period` in any stretch of length d up to the period: never two full limits at once;
    * at most `amount` in each window that starts at a multiple of the period;
    * after one period without hits the whole limit is free again.
    """

    index: int = 0
    previous: Stretch = Stretch()
    current: Stretch = Stretch()

    def _at(self, limit: Limit, now: int) -> "SlidingWindow":
        index = now // limit.period_ms
        if index <= self.index:
            return self
        return SlidingWindow(index, self.current if index == self.index + 1 else Stretch())

    def charge(self, limit: Limit, hits: int, now: int) -> "SlidingWindow":
        window = self._at(limit, now)
        latest = max(now, window.index * limit.period_ms, window.current.last)
        return SlidingWindow(window.index, window.previous, window.current.add(hits, latest))

    def wait(self, limit: Limit, hits: int, now: int) -> int | None:
        room = limit.amount - max(hits, 1)
        if room < 0:
            return None
        window = self._at(limit, now)
        if window.current.count <= room:
            free_at = window.previous.falls_to(room - window.current.count, limit.period_ms)
        else:
            free_at = window.current.falls_to(room, limit.period_ms)
        return max(0, free_at - now)

    def remaining(self, limit: Limit, now: int) -> int:
        window = self._at(limit, now)
        return max(0, limit.amount - window.current.count - window.previous.counting(limit.period_ms, now))

    def reset_after(self, limit: Limit, now: int) -> int:
        window = self._at(limit, now)
        newest = window.current if window.current.count else window.previous
        return max(0, newest.falls_to(0, limit.period_ms) - now)

    def mark(self, limit: Limit, now: int) -> int:
        return self._at(limit, now).index

    def amend(self, limit: Limit, mark: int, difference: int, now: int) -> "SlidingWindow":
        window = self._at(limit, now)
        start = window.index * limit.period_ms
        if mark == window.index:
            return SlidingWindow(window.index, window.previous, window.current.correct(difference, max(now, start)))
        if mark == window.index - 1:
            return SlidingWindow(window.index, window.previous.correct(difference, start - 1), window.current)
        return window.charge(limit, difference, now) if difference > 0 else window


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """GCRA as a leaky bucket: hits owed, which drain at `amount` per period (ITU-T I.371, annex A).

    `level` whole hits and `part` period-ths of one were owed at the time `at`.
    Promise: in any stretch of length d at most `burst + amount * d / period` hits pass.
    """

    level: int = 0
    part: int = 0
    at: int = 0

    def _owed(self, limit: Limit, now: int) -> int:
        """What is owed now, in period-ths of a hit."""
        drained = min(max(0, now - self.at), MAX_AMOUNT) * limit.amount
        return max(0, self.level * limit.period_ms + self.part - drained)

    def _time_to_drain(self, limit: Limit, excess: int, now: int) -> int:
        return max(self.at - now, 0) + min(_ceil_div(excess, limit.amount), MAX_AMOUNT)

    def _owing(self, limit: Limit, owed: int, now: int) -> "TokenBucket":
        level, part = divmod(max(0, owed), limit.period_ms)
        return TokenBucket(min(level, MAX_AMOUNT), part, max(self.at, now))

    def charge(self, limit: Limit, hits: int, now: int) -> "TokenBucket":
        return self._owing(limit, self._owed(limit, now) + hits * limit.period_ms, now)

    def wait(self, limit: Limit, hits: int, now: int) -> int | None:
        need = max(hits, 1)
        if need > limit.capacity:
            return None
        excess = self._owed(limit, now) - (limit.capacity - need) * limit.period_ms
        return 0 if excess <= 0 else self._time_to_drain(limit, excess, now)

    def remaining(self, limit: Limit, now: int) -> int:
        return max(0, limit.capacity - _ceil_div(self._owed(limit, now), limit.period_ms))

    def reset_after(self, limit: Limit, now: int) -> int:
        owed = self._owed(limit, now)
        return 0 if owed == 0 else self._time_to_drain(limit, owed, now)

    def mark(self, limit: Limit, now: int) -> int:
        """When the newest hits will have drained, first in, first out, if none before them are refunded."""
        return now + self.reset_after(limit, now)

    def amend(self, limit: Limit, mark: int, difference: int, now: int) -> "TokenBucket":
        still_counts = min(max(0, mark - now), MAX_AMOUNT) * limit.amount
        change = max(difference * limit.period_ms, -still_counts)
        return self._owing(limit, self._owed(limit, now) + change, now)


State = FixedWindow | SlidingWindow | TokenBucket

EMPTY: MappingProxyType[Algorithm, State] = MappingProxyType(
    {
        Algorithm.FIXED_WINDOW: FixedWindow(),
        Algorithm.SLIDING_WINDOW: SlidingWindow(),
        Algorithm.TOKEN_BUCKET: TokenBucket(),
    }
)
