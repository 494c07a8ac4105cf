"""What decides while Redis is gone: this process's share of every limit, or nobody."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal

from ratelimit_service.limits import Limit
from ratelimit_service.store import Ask, Charge, Decision, LeaseAsk, Renewal, Settlement, Store
from ratelimit_service.store_memory import MemoryStore, epoch_ms

OnFailure = Literal["local", "allow", "deny"]


def fallback(on_failure: OnFailure, sharers: int, clock: Callable[[], int] = epoch_ms) -> Store | None:
    """The store to use in Redis's place: a `Share`, `Unlimited`, or none when requests are to be denied.

    `sharers` is how many processes decide for the same callers: workers times replicas of the gateway.
    """
    match on_failure:
        case "local":
            return Share(sharers, clock)
        case "allow":
            return Unlimited()
        case "deny":
            return None


class Share:
    """`Store` in memory that enforces each limit divided by `sharers`, rounded up.

    All sharers together admit at most `sharers - 1` hits more than the limit, on top of what Redis has admitted before.
    Outcomes name the limits as asked; what remains is what this process will still admit. A charge that fits the limit
    but not the share takes the whole share: it would otherwise be refused for as long as Redis is gone.
    """

    def __init__(self, sharers: int, clock: Callable[[], int] = epoch_ms) -> None:
        if sharers < 1:
            raise ValueError(f"a limit can't be shared by {sharers} processes; count this one too")
        self._sharers = sharers
        self._memory = MemoryStore(clock)

    async def decide(self, ask: Ask) -> Decision:
        return _as_asked(ask, await self._memory.decide(self._share_of(ask)))

    async def peek(self, ask: Ask) -> Decision:
        return _as_asked(ask, await self._memory.peek(self._share_of(ask)))

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """True counts are not divided: this process's requests have used all of them."""
        await self._memory.settle(
            [s._replace(charges=tuple(c._replace(limit=self._limit(c)) for c in s.charges)) for s in settlements]
        )

    async def refund(self, charges: Sequence[Charge]) -> None:
        await self._memory.refund([charge._replace(limit=self._limit(charge)) for charge in charges])

    async def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        return await self._memory.renew(renewals)

    async def close(self) -> None:
        await self._memory.close()

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


@lru_cache(maxsize=4096)  # the limits of a configuration are few, and this is asked for every charge
def _divided(limit: Limit, by: int) -> Limit:
    burst = None if limit.burst is None else _ceil(limit.burst, by)
    return replace(limit, amount=_ceil(limit.amount, by), burst=burst)


def _ceil(amount: int, by: int) -> int:
    return -(-amount // by)


def _as_asked(ask: Ask, decision: Decision) -> Decision:
    outcomes = (o._replace(charge=charge) for o, charge in zip(decision.outcomes, ask.charges, strict=True))
    leases = (o._replace(ask=lease) for o, lease in zip(decision.leases, ask.leases, strict=True))
    return Decision(decision.allowed, tuple(outcomes), tuple(leases))
