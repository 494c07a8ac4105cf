"""The store with a life after its failure: a time budget, a circuit breaker, a fallback, and a backlog."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from ratelimit_service.backlog import Backlog, Event
from ratelimit_service.breaker import Breaker
from ratelimit_service.patience import Patience
from ratelimit_service.store import Ask, Charge, Decision, FailureKind, Renewal, Settlement, Store, StoreUnavailable

log = logging.getLogger(__name__)

BUDGET_S = 0.01
"""The most that a store which doesn't answer adds to a request."""

_PATIENCE_S = 1.0  # for what no request waits for: settlements, renewals, probes
_CHUNK = 128  # events of the backlog in one round trip, so that decisions need not wait behind thousands

_SAID_SO: frozenset[FailureKind] = frozenset({"oom", "readonly", "loading", "clusterdown"})
"""Failures that Redis itself reports, about itself: one is enough to believe it."""

_PROBE = Settlement("probe", leases=("probe",))
"""Gives back a lease that nobody holds: changes nothing, and fails whenever Redis can't or won't write."""

T = TypeVar("T")


class Observer(Protocol):
    """Who counts what goes wrong. Called in the event loop, so it must not block."""

    def on_failure(self, kind: FailureKind) -> None:
        """A call to the store has failed, a probe perhaps. While the breaker is open requests make no calls."""
        ...

    def on_degraded(self) -> None:
        """The fallback has decided a request."""
        ...

    def on_lost(self, events: int) -> None:
        """So many settlements and renewals never reached the store."""
        ...


class Resilient:
    """`Store` over one that may fail, without failing itself, unless `fallback` is None.

    `decide` and `peek` wait for `store` at most `budget_s`, and not at all while the breaker is open; then `fallback`
    answers and the decision is marked degraded. Without a fallback they raise `StoreUnavailable`. What the store has
    decided too late stays charged there until a settlement corrects it, and its leases until they lapse.

    `settle` and `renew` never raise: what the store did not acknowledge is kept and told again when it answers, in
    chunks between which decisions go on. Until then the fallback is told, and leases count as held.

    Failures are logged when the breaker opens and closes, and not in between. `answers` is for `Patience`; `clock` is
    monotonic, in seconds.
    """

    def __init__(
        self,
        store: Store,
        fallback: Store | None,
        observer: Observer,
        *,
        budget_s: float = BUDGET_S,
        breaker: Breaker | None = None,
        backlog: Backlog | None = None,
        answers: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._fallback = fallback
        self._observer = observer
        self._budget_s = budget_s
        self._breaker = Breaker() if breaker is None else breaker
        self._backlog = Backlog() if backlog is None else backlog
        self._clock = clock
        self._reason: FailureKind = "other"
        self._patience = Patience(answers)
        self._recovery: asyncio.Task[None] | None = None

    async def decide(self, ask: Ask) -> Decision:
        return await self._decision(lambda store: store.decide(ask))

    async def peek(self, ask: Ask) -> Decision:
        return await self._decision(lambda store: store.peek(ask))

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        try:
            await self._call(lambda store: store.settle(settlements), _PATIENCE_S)
        except StoreUnavailable:
            self._tell_later(settlements)
            if self._fallback is not None:
                await self._fallback.settle(settlements)

    async def refund(self, charges: Sequence[Charge]) -> None:
        """Raises `StoreUnavailable` when it was not done: a refund has no id by which it could be told again."""
        await self._call(lambda store: store.refund(charges), _PATIENCE_S)

    async def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        try:
            return await self._call(lambda store: store.renew(renewals), _PATIENCE_S)
        except StoreUnavailable:
            self._tell_later(renewals)
            if self._fallback is not None:
                await self._fallback.renew(renewals)
            return [True] * len(renewals)

    async def close(self) -> None:
        """Count what is still to be told as lost, and close the stores."""
        if self._recovery is not None:
            self._recovery.cancel()
        self._lost(len(self._backlog))
        await self._store.close()
        if self._fallback is not None:
            await self._fallback.close()

    async def _decision(self, question: Callable[[Store], Awaitable[Decision]]) -> Decision:
        try:
            return await self._call(question, self._budget_s)
        except StoreUnavailable:
            if self._fallback is None:
                raise
            self._observer.on_degraded()
            return (await question(self._fallback))._replace(degraded=True)

    async def _call(self, question: Callable[[Store], Awaitable[T]], within_s: float) -> T:
        if not self._breaker.closed:
            raise StoreUnavailable(self._reason, "left alone until it answers a probe")
        return await self._try(question, within_s)

    async def _try(self, question: Callable[[Store], Awaitable[T]], within_s: float) -> T:
        """Ask, whatever the breaker says, and let it know. Giving up leaves other questions of a batch alone."""
        began = self._clock()
        try:
            answer = await self._patience.wait_for(question(self._store), within_s)
        except TimeoutError:
            raise self._failed(StoreUnavailable("timeout", f"no answer in {within_s} s"), began) from None
        except StoreUnavailable as error:
            raise self._failed(error, began) from None
        if self._breaker.succeeded(began, self._clock()):
            log.warning("Redis answers again: it decides on limits")
        return answer

    def _failed(self, error: StoreUnavailable, began: float) -> StoreUnavailable:
        self._observer.on_failure(error.kind)
        self._reason = error.kind
        if self._breaker.failed(began, self._clock(), hard=error.kind in _SAID_SO):
            log.error("Redis does not decide on limits until it answers again: %s", error)
            self._recover_soon()
        return error

    def _tell_later(self, events: Sequence[Event]) -> None:
        self._lost(self._backlog.add(events))
        self._recover_soon()

    def _lost(self, events: int) -> None:
        if events:
            self._observer.on_lost(events)

    def _recover_soon(self) -> None:
        if self._recovery is None or self._recovery.done():
            self._recovery = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        """Probe until the store answers, then tell it what it has missed."""
        while self._backlog or not self._breaker.closed:
            await asyncio.sleep(self._breaker.wait_s)
            with contextlib.suppress(StoreUnavailable):
                await self._try(lambda store: store.settle([_PROBE]), _PATIENCE_S)
                while events := self._backlog.oldest(_CHUNK):
                    await asyncio.gather(*map(self._tell, events))

    async def _tell(self, event: Event) -> None:
        """Called for many at once: the store sends them in one round trip. Raises what calls for another time."""
        try:
            await self._try(lambda store: _told(store, event), _PATIENCE_S)
        except StoreUnavailable as error:
            if error.kind != "other":
                raise
            self._lost(1)  # Redis answers, and will not have this one
        self._backlog.remove(event)


def _told(store: Store, event: Event) -> Awaitable[object]:
    return store.settle([event]) if isinstance(event, Settlement) else store.renew([event])
