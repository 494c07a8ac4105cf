"""The store port: one atomic decision over all limits of a request, and its settlement when the request has ended.

Times are integer milliseconds. A bucket is named by a charge's key, its limit's algorithm and its period, so changing
the amount of a limit keeps the count, and changing how it counts starts afresh.

Types that a request makes several of are tuples: a frozen dataclass takes three times as long to make.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from gatehouse.contract.failures import GatehouseError
from ratelimit_service.store.limits import MAX_AMOUNT, Algorithm, Limit

RESERVATION_TTL_MS = 25 * 3_600_000
"""How long a reservation waits for its settlement: longer than any stream and than a daily window, so that both never
end at the same moment. Afterwards the charge simply stays."""

SETTLED_TTL_MS = 15 * 60_000
"""How long a settled request id is remembered, so that settling it again changes nothing."""

GRACE_MS = 60_000
"""How long a store keeps a count after its end, so that a clock that steps back does not refill a spent limit."""

FailureKind = Literal["timeout", "connection", "oom", "readonly", "loading", "noscript", "clusterdown", "other"]

Bucket = tuple[str, Algorithm, int]
"""Key, algorithm and period in seconds: the name of a count."""


class StoreUnavailable(GatehouseError):  # noqa: N818 - it names a state of the store, and reads so where it is caught
    """The store gave no answer. Whether it acted is unknown, except for `oom`, `readonly` and `loading`: it did not."""

    def __init__(self, kind: FailureKind, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind: FailureKind = kind


class _Charge(NamedTuple):
    key: str
    limit: Limit
    hits: int = 1
    reserve: bool = False


class Charge(_Charge):
    """`hits` against one limit; `key` names who is limited and what is counted (requests, tokens, …).

    A `{tag}` in the key puts all buckets of that tag on one Redis Cluster slot. 0 hits only check whether one would
    pass. A reserved charge is an estimate that `Store.settle` corrects. Raises `ValueError` for hits out of range.
    """

    __slots__ = ()

    def __new__(cls, key: str, limit: Limit, hits: int = 1, reserve: bool = False) -> "Charge":
        if not key:
            raise ValueError(f"a charge against limit {limit.name!r} has an empty key")
        if not 0 <= hits <= MAX_AMOUNT:
            raise ValueError(f"charge {key!r}: {hits} hits is not between 0 and {MAX_AMOUNT}")
        return super().__new__(cls, key, limit, hits, reserve)

    @property
    def bucket(self) -> Bucket:
        return self.key, self.limit.algorithm, self.limit.period_s


@dataclass(frozen=True, slots=True)
class LeaseAsk:
    """One of at most `limit` requests of `key` that run at the same time, held for `ttl_ms` unless renewed."""

    key: str
    name: str
    limit: int
    ttl_ms: int
    shadow: bool = False

    def __post_init__(self) -> None:
        if not self.key:
            raise ValueError(f"lease {self.name!r} has an empty key")
        if self.limit < 0 or self.ttl_ms < 1:
            raise ValueError(f"lease {self.name!r}: limit {self.limit} is negative or ttl {self.ttl_ms} ms is below 1")


class Ask(NamedTuple):
    """Everything that one request must pass.

    `request_id` names its reservations and leases, so the gateway generates it: requests that share an id share these.
    """

    request_id: str
    charges: tuple[Charge, ...]
    leases: tuple[LeaseAsk, ...] = ()


class Outcome(NamedTuple):
    """One charge's answer: whether it would pass alone, and its window as the decision left it.

    `retry_after_ms` is 0 if it passes, None if so many hits never can.
    """

    charge: Charge
    allowed: bool
    remaining: int
    reset_after_ms: int
    retry_after_ms: int | None


class LeaseOutcome(NamedTuple):
    """One lease's answer: whether there was room, and how many run now, this request included if it was admitted."""

    ask: LeaseAsk
    allowed: bool
    in_use: int


class Decision(NamedTuple):
    """`allowed` if every charge and lease that is not a shadow has room. Outcomes are in the order of the ask.

    A `degraded` decision was made without the shared counts, because their store is unavailable; if nothing was counted
    at all, it has no outcomes.
    """

    allowed: bool
    outcomes: tuple[Outcome, ...] = ()
    leases: tuple[LeaseOutcome, ...] = ()
    degraded: bool = False

    @property
    def only_leases_refuse(self) -> bool:
        """Whether only leases refuse the request, so that it may pass when another one ends."""
        return not self.allowed and all(o.allowed or o.charge.limit.shadow for o in self.outcomes)


class Settlement(NamedTuple):
    """The true counts of a request that ended, in `charges[].hits`, and the keys of the leases to release.

    `late`: it may have been settled before, longer ago than settlements are remembered.
    """

    request_id: str
    charges: tuple[Charge, ...] = ()
    leases: tuple[str, ...] = ()
    late: bool = False


class Renewal(NamedTuple):
    """The request still runs: its lease on `key` holds for `ttl_ms` from now."""

    request_id: str
    key: str
    ttl_ms: int


class Store(Protocol):
    """Stores the counts. Every method may raise `StoreUnavailable`; none retries."""

    async def decide(self, ask: Ask) -> Decision:
        """Admit or refuse the request, in one atomic step over all its charges and leases.

        An admitted request is charged everywhere and holds all its leases. A refused one consumes nothing, not even of
        shadow limits; nor does one with reservations that was settled before it was decided. A request that already
        holds a lease keeps it, renewed, and takes no second one. Several charges of one bucket see each other. (On a
        Redis Cluster the step is atomic per `{tag}`: see `store.redis.store`.)
        """
        ...

    async def peek(self, ask: Ask) -> Decision:
        """What `decide` would answer now. Consumes nothing, so what remains does not include this ask."""
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Replace the reserved counts by the true ones and release the leases, a few settlements in one step.

        A difference goes to the window of the reservation while that still counts; later only what is missing is
        charged, to the current window. What was never reserved (the limiter was down at admission) is charged in full,
        unless the settlement is `late`: then it charges nothing.
        Charges of a settled id are ignored for `SETTLED_TTL_MS`, so a settlement may be repeated until it is
        acknowledged. A reservation that no settlement mentions stays charged until its window ends. Leases that the
        request does not hold are no error, and no count ever falls below zero.
        """
        ...

    async def refund(self, charges: Sequence[Charge]) -> None:
        """Subtract the hits of `charges` from the current windows. No count falls below zero."""
        ...

    async def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        """Renew leases; False for one that is no longer held. An expired lease is not revived."""
        ...

    async def close(self) -> None:
        """Release connections. The store is not used afterwards."""
        ...
