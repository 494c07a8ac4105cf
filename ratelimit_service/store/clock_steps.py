"""Corrects a count whose clock has stepped back: it keeps what was used, and recovers within a period.

`algorithms` reads a clock that steps back as the latest time that a state has seen. That refills nothing, but after a
step of an hour a limit of a minute would stay spent for an hour. `buckets.lua` does the same in Lua.
"""

from dataclasses import replace

from ratelimit_service.store.algorithms import EMPTY, FixedWindow, SlidingWindow, State
from ratelimit_service.store.limits import MAX_AMOUNT, Limit

STEP_MS = 1_000
"""Clocks of servers that replace each other (a failover) differ by less. More is a step."""


def healed(state: State, limit: Limit, now: int) -> State:
    """The state, or, if it has seen a time well after `now`, a new one with all its hits charged at `now`."""
    latest = _latest(state, limit)
    if latest - now <= STEP_MS:
        return state
    boundless = replace(limit, amount=MAX_AMOUNT, burst=None)
    used = MAX_AMOUNT - state.remaining(boundless, latest)
    return EMPTY[limit.algorithm].charge(limit, used, now)


def _latest(state: State, limit: Limit) -> int:
    """The latest time that the state has seen, as far as it remembers."""
    match state:
        case FixedWindow():
            return state.index * limit.period_ms
        case SlidingWindow():
            return max(state.index * limit.period_ms, state.current.last)
        case _:
            return state.at
