"""The store in one process's memory: the executable specification of `Store`, and the fallback for Redis."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ratelimit_service.store.algorithms import EMPTY, State
from ratelimit_service.store.clock_steps import STEP_MS, healed
from ratelimit_service.store.expiring import Expiring
from ratelimit_service.store.port import (
    GRACE_MS,
    RESERVATION_TTL_MS,
    SETTLED_TTL_MS,
    Ask,
    Bucket,
    Charge,
    Decision,
    LeaseOutcome,
    Outcome,
    Renewal,
    Settlement,
)


class _Reserved(NamedTuple):
    hits: int
    mark: int


_Reservations = dict[Bucket, _Reserved]  # of one request; empty once it is settled
_Leases = dict[str, int]  # request id -> end


class _Weighed(NamedTuple):
    """The result of checking an ask: of each charge and lease, and what to store if it is admitted."""

    waits: list[int | None]
    rooms: list[bool]
    states: dict[Bucket, State]
    reservations: _Reservations

    def allows(self, ask: Ask) -> bool:
        charges = all(w == 0 or c.limit.shadow for c, w in zip(ask.charges, self.waits, strict=True))
        return charges and all(room or lease.shadow for lease, room in zip(ask.leases, self.rooms, strict=True))


def _born_ns() -> int:
    """The wall-clock time at which the monotonic clock was 0. The wall clock is read between two readings of the
    monotonic one, and the closest of several such pairs is used: waiting for a CPU in between would be a lasting
    error."""
    looks = [(time.monotonic_ns(), time.time_ns(), time.monotonic_ns()) for _ in range(16)]
    before, now, after = min(looks, key=lambda look: look[2] - look[0])
    return now - (before + after) // 2


_BORN_NS = _born_ns()


def epoch_ms() -> int:
    """Milliseconds since the epoch, by the wall clock at the start of this process and the monotonic clock since: later
    steps of the machine's clock change no limit."""
    return (_BORN_NS + time.monotonic_ns()) // 1_000_000


class MemoryStore:
    """Exact and single-process; no method awaits anything, so each is atomic. Memory is bounded by what still counts.

    `clock` gives milliseconds since the epoch.
    """

    def __init__(self, clock: Callable[[], int] = epoch_ms) -> None:
        self._clock = clock
        self._states: Expiring[Bucket, State] = Expiring()
        self._reservations: Expiring[str, _Reservations] = Expiring()
        self._leases: Expiring[str, _Leases] = Expiring()

    def __len__(self) -> int:
        """The number of buckets, requests and lease keys in memory."""
        return len(self._states) + len(self._reservations) + len(self._leases)

    async def decide(self, ask: Ask) -> Decision:
        now = self._clock()
        self._heal(ask.charges, now)
        weighed = self._weigh(ask, now)
        if weighed.allows(ask) and not self._settled_already(ask, now):
            self._keep(ask, weighed, now)
        self._heal_leases(ask, weighed, now)
        return self._answer(ask, weighed, now)

    async def peek(self, ask: Ask) -> Decision:
        now = self._clock()
        return self._answer(ask, self._weigh(ask, now), now)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        now = self._clock()
        for settlement in settlements:
            if settlement.charges:
                self._settle_charges(settlement, now)
            for key in settlement.leases:
                live = self._live(key, now)
                live.pop(settlement.request_id, None)
                self._put_leases(key, live, now)

    async def refund(self, charges: Sequence[Charge]) -> None:
        now = self._clock()
        for charge in charges:
            state, limit = self._state(charge, now), charge.limit
            self._put_state(charge, state.amend(limit, state.mark(limit, now), -charge.hits, now), now)

    async def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        now = self._clock()
        return [self._renew(renewal, now) for renewal in renewals]

    async def close(self) -> None:
        """Nothing to release."""

    def put_in_place(self, charge: Charge, at: int) -> None:
        """Set the bucket of `charge` to its hits, as if they had come at the time `at`."""
        state = EMPTY[charge.limit.algorithm].charge(charge.limit, charge.hits, at)
        self._put_state(charge, state, max(at, self._clock()))

    def forget_requests(self) -> None:
        """Drop all reservations and leases. What was charged stays charged."""
        self._reservations, self._leases = Expiring(), Expiring()

    def _settled_already(self, ask: Ask, now: int) -> bool:
        """A decision may come late: its caller gave up waiting, and the request ran, ended and was settled."""
        reserves = any(charge.reserve for charge in ask.charges)
        return reserves and self._reservations.get(ask.request_id, now) == {}

    def _weigh(self, ask: Ask, now: int) -> _Weighed:
        waits: list[int | None] = []
        states: dict[Bucket, State] = {}
        reservations = dict(self._reservations.get(ask.request_id, now) or {})
        for charge in ask.charges:
            state = states.get(charge.bucket) or self._state(charge, now)
            waits.append(state.wait(charge.limit, charge.hits, now))
            state = states[charge.bucket] = state.charge(charge.limit, charge.hits, now)
            if charge.reserve:
                before = reservations.get(charge.bucket, _Reserved(0, 0))
                mark = state.mark(charge.limit, now)
                reservations[charge.bucket] = _Reserved(before.hits + charge.hits, mark)
        lives = [self._live(lease.key, now) for lease in ask.leases]
        rooms = [ask.request_id in live or len(live) < a.limit for a, live in zip(ask.leases, lives, strict=True)]
        return _Weighed(waits, rooms, states, reservations)

    def _keep(self, ask: Ask, weighed: _Weighed, now: int) -> None:
        for charge in ask.charges:
            if charge.hits:
                self._put_state(charge, weighed.states[charge.bucket], now)
        if any(charge.reserve for charge in ask.charges):
            self._reservations.put(ask.request_id, weighed.reservations, now + RESERVATION_TTL_MS, now)
        for lease in ask.leases:
            self._hold(lease.key, ask.request_id, now + lease.ttl_ms, now)

    def _answer(self, ask: Ask, weighed: _Weighed, now: int) -> Decision:
        return Decision(
            weighed.allows(ask),
            tuple(self._outcome(c, wait, now) for c, wait in zip(ask.charges, weighed.waits, strict=True)),
            tuple(
                LeaseOutcome(lease, room, len(self._live(lease.key, now)))
                for lease, room in zip(ask.leases, weighed.rooms, strict=True)
            ),
        )

    def _outcome(self, charge: Charge, wait: int | None, now: int) -> Outcome:
        limit, state = charge.limit, self._state(charge, now)
        return Outcome(charge, wait == 0, state.remaining(limit, now), state.reset_after(limit, now), wait)

    def _settle_charges(self, settlement: Settlement, now: int) -> None:
        reservations = self._reservations.get(settlement.request_id, now)
        if reservations == {} or (reservations is None and settlement.late):
            return
        unsettled = dict(reservations or {})
        for charge in settlement.charges:
            state, reserved = self._state(charge, now), unsettled.pop(charge.bucket, None)
            if reserved is None:
                state = state.charge(charge.limit, charge.hits, now)
            else:
                state = state.amend(charge.limit, reserved.mark, charge.hits - reserved.hits, now)
            self._put_state(charge, state, now)
        self._reservations.put(settlement.request_id, {}, now + SETTLED_TTL_MS, now)

    def _renew(self, renewal: Renewal, now: int) -> bool:
        held = renewal.request_id in self._live(renewal.key, now)
        if held:
            self._hold(renewal.key, renewal.request_id, now + renewal.ttl_ms, now)
        return held

    def _state(self, charge: Charge, now: int) -> State:
        state = self._states.get(charge.bucket, now)
        return EMPTY[charge.limit.algorithm] if state is None else healed(state, charge.limit, now)

    def _heal(self, charges: Sequence[Charge], now: int) -> None:
        """Store counts that a clock step has changed: otherwise they would be charged at each later `now` anew."""
        for charge in charges:
            before = self._states.get(charge.bucket, now)
            if before is not None and (state := healed(before, charge.limit, now)) is not before:
                self._put_state(charge, state, now)

    def _heal_leases(self, ask: Ask, weighed: _Weighed, now: int) -> None:
        """A lease that blocks the request, and was taken before the clock stepped back, ends as if renewed just now."""
        for lease, room in zip(ask.leases, weighed.rooms, strict=True):
            latest = now + lease.ttl_ms
            if not room:
                live = self._live(lease.key, now).items()
                self._put_leases(lease.key, {r: latest if end > latest + STEP_MS else end for r, end in live}, now)

    def _put_state(self, charge: Charge, state: State, now: int) -> None:
        ends_in = state.reset_after(charge.limit, now)
        self._states.put(charge.bucket, state, now + ends_in + GRACE_MS if ends_in else now, now)

    def _live(self, key: str, now: int) -> _Leases:
        return {request: end for request, end in (self._leases.get(key, now) or {}).items() if now < end}

    def _hold(self, key: str, request_id: str, end: int, now: int) -> None:
        live = self._live(key, now)
        self._put_leases(key, live | {request_id: max(end, live.get(request_id, 0))}, now)

    def _put_leases(self, key: str, live: _Leases, now: int) -> None:
        self._leases.put(key, live, max(live.values(), default=now), now)
