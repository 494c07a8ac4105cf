"""Decides while Redis is unavailable: by this process's share of every limit, or without limits."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal, Protocol

from ratelimit_service.store.limits import Algorithm, Limit
from ratelimit_service.store.memory import MemoryStore, epoch_ms
from ratelimit_service.store.port import Ask, Bucket, Charge, Decision, LeaseAsk, Renewal, Settlement, Store
from ratelimit_service.store.seen import Seen, Sight

OnFailure = Literal["local", "allow", "deny"]

_MOST_IN_PLACE = 131_072  # twice what `Seen` remembers


class Fallback(Store, Protocol):
    """A store to use while another one is unavailable. Its methods never fail."""

    def back(self) -> None:
        """The other store is back, and has counted all that was admitted here."""
        ...


def fallback(
    on_failure: OnFailure, sharers: int, clock: Callable[[], int] = epoch_ms, seen: Seen | None = None
) -> Fallback | None:
    """The store to use in Redis's place: a `Share`, `Unlimited`, or None to deny requests.

    `sharers` is the number of processes that decide for the same callers: workers times replicas of the gateway. `seen`
    has Redis's latest outcomes.
    """
    match on_failure:
        case "local":
            return Share(sharers, clock, seen)
        case "allow":
            return Unlimited()
        case "deny":
            return None


class Share:
    """`Store` in memory that enforces what was left of each limit, divided by `sharers` and rounded up.

    What was left is in the shared store's last decision on a bucket; if it made none here, the whole limit is divided.
    All sharers together admit at most `sharers - 1` hits more than that, and one share more if others have used the
    limit since. Limits on leases are divided as a whole: which of their holders still run is unknown.

    Outcomes name the limits as asked; what remains is what this process will still admit. A charge that fits the limit
    but not the share takes the whole share: otherwise it would be refused for as long as Redis is unavailable.
    """

    def __init__(self, sharers: int, clock: Callable[[], int] = epoch_ms, seen: Seen | None = None) -> None:
        if sharers < 1:
            raise ValueError(
                f"{sharers} processes can't share a limit: sharers must be 1 or more, and includes this process"
            )
        self._sharers = sharers
        self._memory = MemoryStore(clock)
        self._seen = Seen(clock) if seen is None else seen
        self._in_place: dict[Bucket, Sight] = {}  # what the counts in memory started from
        self._admitted: set[str] = set()  # requests that may have reservations or leases here

    def back(self) -> None:
        """Counts made here stay until the shared store's next answer for their bucket: that answer includes what was
        admitted here, and earlier ones do not."""
        self._memory.forget_requests()
        self._admitted.clear()

    async def decide(self, ask: Ask) -> Decision:
        self._put_in_place(ask.charges)
        decision = await self._memory.decide(self._share_of(ask))
        if decision.allowed and (ask.leases or any(charge.reserve for charge in ask.charges)):
            self._admitted.add(ask.request_id)
        return _as_asked(ask, decision)

    async def peek(self, ask: Ask) -> Decision:
        self._put_in_place(ask.charges)
        return _as_asked(ask, await self._memory.peek(self._share_of(ask)))

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Settles requests that were admitted here. True counts are not divided: this process has used all of them. For
        any other request, the estimate is included in what was left."""
        mine = [settlement for settlement in settlements if settlement.request_id in self._admitted]
        if mine:
            await self._memory.settle(
                [s._replace(charges=tuple(c._replace(limit=self._limit(c)) for c in s.charges)) for s in mine]
            )
            self._admitted.difference_update(settlement.request_id for settlement in mine)

    async def refund(self, charges: Sequence[Charge]) -> None:
        await self._memory.refund([charge._replace(limit=self._limit(charge)) for charge in charges])

    async def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        return await self._memory.renew(renewals)

    async def close(self) -> None:
        await self._memory.close()

    def _put_in_place(self, charges: Iterable[Charge]) -> None:
        """Start each bucket from its last outcome in the shared store, once."""
        for charge in charges:
            sight = self._seen.get(charge.bucket)
            if sight is not None and self._in_place.get(charge.bucket) is not sight:
                self._in_place[charge.bucket] = sight
                used = charge._replace(limit=self._limit(charge), hits=self._used(sight))
                self._memory.put_in_place(used, _charged_at(sight))
        if len(self._in_place) > _MOST_IN_PLACE:
            self._in_place = {bucket: s for bucket, s in self._in_place.items() if self._seen.get(bucket) is s}

    def _used(self, sight: Sight) -> int:
        """The hits to charge to the share so that its remainder is the share of what was left."""
        limit = sight.outcome.charge.limit
        return max(0, _divided(limit, self._sharers).capacity - _ceil(sight.outcome.remaining, self._sharers))

    def _share_of(self, ask: Ask) -> Ask:
        return Ask(ask.request_id, tuple(map(self._charge, ask.charges)), tuple(map(self._lease, ask.leases)))

    def _charge(self, charge: Charge) -> Charge:
        limit = self._limit(charge)
        fits = charge.hits <= charge.limit.capacity
        return charge._replace(limit=limit, hits=min(charge.hits, limit.capacity) if fits else charge.hits)

    def _limit(self, charge: Charge) -> Limit:
        return _divided(charge.limit, self._sharers)

    def _lease(self, lease: LeaseAsk) -> LeaseAsk:
        return replace(lease, limit=_ceil(lease.limit, self._sharers))


class Unlimited:
    """`Store` that admits everything and counts nothing, so its decisions have no outcomes."""

    def back(self) -> None:
        """Nothing was counted."""

    async def decide(self, _ask: Ask) -> Decision:
        return Decision(allowed=True)

    async def peek(self, _ask: Ask) -> Decision:
        return Decision(allowed=True)

    async def settle(self, _settlements: Sequence[Settlement]) -> None:
        """Nothing was counted."""

    async def refund(self, _charges: Sequence[Charge]) -> None:
        """Nothing was counted."""

    async def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        return [True] * len(renewals)

    async def close(self) -> None:
        """Nothing to release."""


@lru_cache(maxsize=4096)  # a configuration has few limits, and every charge needs this
def _divided(limit: Limit, by: int) -> Limit:
    burst = None if limit.burst is None else _ceil(limit.burst, by)
    return replace(limit, amount=_ceil(limit.amount, by), burst=burst)


def _charged_at(sight: Sight) -> int:
    """When to charge the hits that were seen, so that they stop counting when the shared store says they do. A token
    bucket drains from when it was seen. A fixed window is charged in its middle: a clock slightly behind the store's
    would take its beginning for the window before, and grant the whole limit anew."""
    limit, ends = sight.outcome.charge.limit, sight.at + sight.outcome.reset_after_ms
    match limit.algorithm:
        case Algorithm.TOKEN_BUCKET:
            return sight.at
        case Algorithm.FIXED_WINDOW:
            return ends - limit.period_ms // 2
        case Algorithm.SLIDING_WINDOW:
            return ends - limit.period_ms


def _ceil(amount: int, by: int) -> int:
    return -(-amount // by)


def _as_asked(ask: Ask, decision: Decision) -> Decision:
    outcomes = (o._replace(charge=charge) for o, charge in zip(decision.outcomes, ask.charges, strict=True))
    leases = (o._replace(ask=lease) for o, lease in zip(decision.leases, ask.leases, strict=True))
    return Decision(decision.allowed, tuple(outcomes), tuple(leases))
