"""Keeps deciding while a store fails: with time-outs, a circuit breaker, a fallback and a backlog.

What happens to a request while the store fails:

* It waits while the store is merely late. When the breaker opens, the fallback decides all waiting requests.
* The store may have decided it nevertheless: its late answer is still read. If it agrees with the fallback, nothing is
  left to do; what it has charged for a request that was refused is undone.
* What the fallback has admitted and the store has not is charged there when it answers again, before it decides again:
  so every decision of the store includes what was admitted in its absence.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from itertools import count
from typing import Protocol, TypeVar

from ratelimit_service.store.backlog import Admission, Backlog, Event, Refund
from ratelimit_service.store.breaker import Breaker
from ratelimit_service.store.deadline import Deadline
from ratelimit_service.store.fallback import Fallback
from ratelimit_service.store.port import (
    Ask,
    Charge,
    Decision,
    FailureKind,
    Renewal,
    Settlement,
    Store,
    StoreUnavailable,
)
from ratelimit_service.store.restoring import raise_to, unrefusing, unrefusing_lease
from ratelimit_service.store.seen import Seen

log = logging.getLogger(__name__)

TIMEOUT_S = 0.25
"""A silent store is given up after three of these, for all requests, and delays none from then on."""

_TIMEOUTS = 3
_PROBE_S = 1.0  # for calls that no request waits for
_CHUNK = 128  # events of the backlog in one round trip, so that decisions need not wait behind thousands

_CONCLUSIVE: frozenset[FailureKind] = frozenset({"oom", "readonly", "loading", "clusterdown", "connection"})
"""Failures that Redis reports about itself, or that the network reports: one opens the breaker."""

_PROBE = Settlement("probe", leases=("probe",))
"""Releases a lease that nobody holds: changes nothing, and fails whenever Redis can't or won't write."""

_RESTORED_S = 8.0

T = TypeVar("T")


class Observer(Protocol):
    """Counts failures. Called in the event loop, so it must not block."""

    def on_failure(self, kind: FailureKind) -> None:
        """A call to the store (perhaps a probe) has failed, or a time-out has passed without an answer."""
        ...

    def on_degraded(self) -> None:
        """The fallback has decided a request."""
        ...

    def on_lost(self, events: int) -> None:
        """`events` admissions, settlements and renewals never reached the store."""
        ...

    def on_restored(self, limits: int) -> None:
        """The store came back empty; known usage of `limits` limits was charged there again."""
        ...


class Marker(Protocol):
    """Tells whether the store has lost its data. Every method may raise `StoreUnavailable`."""

    async def forgotten(self) -> bool:
        """Whether the store has come back empty since it was last marked."""
        ...

    def restoring(self) -> "contextlib.AbstractAsyncContextManager[None]":
        """A lock for all processes that share the store; when the block has ended, the store is marked again."""
        ...


Remembered = Callable[[], Awaitable[Sequence[Charge]]]


async def _nothing() -> Sequence[Charge]:
    return ()


class Resilient:
    """`Store` over one that may fail, without failing itself, unless `fallback` is None.

    `decide` and `peek` wait for `store` as `Deadline` says, and not at all while the breaker is open; then `fallback`
    answers and the decision is marked degraded. Without a fallback they raise `StoreUnavailable`. A cancelled request
    was not admitted: what the store charges it is refunded.

    `settle` and `renew` never raise: what the store did not acknowledge is queued and sent again when it answers, in
    chunks between which decisions go on. Until then the fallback gets it, and leases count as held.

    Failures are logged when the breaker opens and closes, and not in between. `answers` is for `Deadline`; `seen`
    records what `store` decides, and `remembered` returns what else must have been counted, if the store has lost its
    data; `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        store: Store,
        fallback: Fallback | None,
        observer: Observer,
        *,
        timeout_s: float = TIMEOUT_S,
        breaker: Breaker | None = None,
        backlog: int = 32_768,
        answers: Callable[[], int] | None = None,
        seen: Seen | None = None,
        marker: Marker | None = None,
        remembered: Remembered = _nothing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._fallback = fallback
        self._observer = observer
        self._breaker = Breaker() if breaker is None else breaker
        self._admitted = Backlog(backlog)  # to be charged before the store decides again
        self._backlog = Backlog(backlog)
        self._seen = Seen() if seen is None else seen
        self._marker = marker
        self._remembered = remembered
        self._clock = clock
        self._reason: FailureKind = "other"
        self._deadline = Deadline(timeout_s, self._timed_out, answers)
        self._late: set[asyncio.Future[Decision]] = set()
        self._recovery: asyncio.Task[None] | None = None
        self._names = map((secrets.token_hex(4) + "-{}").format, count())

    async def decide(self, ask: Ask) -> Decision:
        if not self._breaker.closed:
            return await self._decide_without(ask)
        began, answer = self._clock(), asyncio.ensure_future(self._store.decide(ask))
        try:
            decision = await self._deadline.wait_for(answer)
        except TimeoutError:
            return await self._decide_without(ask, answer)
        except StoreUnavailable as error:
            self._failed(error, began)
            return await self._decide_without(ask)
        except asyncio.CancelledError:
            self._follow_up(answer, ask, admitted=False)
            raise
        self._breaker.succeeded(began, self._clock())
        self._seen.note(decision)
        return decision

    async def peek(self, ask: Ask) -> Decision:
        try:
            return await self._call(lambda store: store.peek(ask))
        except StoreUnavailable:
            if self._fallback is None:
                raise
            self._observer.on_degraded()
            return (await self._fallback.peek(ask))._replace(degraded=True)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        if self._fallback is not None:
            await self._fallback.settle(settlements)
        try:
            await self._call(lambda store: store.settle(settlements))
        except StoreUnavailable:
            self._queue(settlements)

    async def refund(self, charges: Sequence[Charge]) -> None:
        """Raises `StoreUnavailable` when it failed: a refund has no id that would make it safe to retry."""
        await self._call(lambda store: store.refund(charges))

    async def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        try:
            return await self._call(lambda store: store.renew(renewals))
        except StoreUnavailable:
            self._queue(renewals)
            if self._fallback is not None:
                await self._fallback.renew(renewals)
            return [True] * len(renewals)

    def forgot(self) -> None:
        """The store was found to be empty: it decides again once its counts are restored."""
        self._fail(StoreUnavailable("other", "it has lost its counts"), hard=True)

    async def close(self) -> None:
        """Count what is still queued as lost, and close the stores."""
        if self._recovery is not None:
            self._recovery.cancel()
        self._deadline.close()
        self._lost(len(self._backlog) + len(self._admitted))
        await self._store.close()
        if self._fallback is not None:
            await self._fallback.close()

    async def _decide_without(self, ask: Ask, late: "asyncio.Future[Decision] | None" = None) -> Decision:
        """The decision of the fallback, or a refusal where there is none; `late` is the store's pending answer."""
        self._observer.on_degraded()
        if self._fallback is None:
            if late is not None:
                self._follow_up(late, ask, admitted=False)
            raise StoreUnavailable(self._reason, "not called until a probe succeeds")
        decision = await self._fallback.decide(ask)
        if late is not None:
            self._follow_up(late, ask, admitted=decision.allowed)
        elif decision.allowed:
            self._charge_later(ask)
        return decision._replace(degraded=True)

    def _follow_up(self, answer: "asyncio.Future[Decision]", ask: Ask, *, admitted: bool) -> None:
        """Read an answer that no request waits for: the store must have charged exactly what was admitted."""
        self._late.add(answer)
        answer.add_done_callback(partial(self._late_answer, ask, admitted))

    def _late_answer(self, ask: Ask, admitted: bool, answer: "asyncio.Future[Decision]") -> None:
        self._late.discard(answer)
        charged = _charged(answer)
        if admitted and not charged:
            self._charge_later(ask)
        elif charged and not admitted and answer.exception() is None:
            self._undo(ask)

    def _charge_later(self, ask: Ask) -> None:
        self._lost(self._admitted.add([Admission(next(self._names), ask)]))
        self._recover_soon()

    def _undo(self, ask: Ask) -> None:
        plain = tuple(charge for charge in ask.charges if not charge.reserve)
        nothing = tuple(charge._replace(hits=0) for charge in ask.charges if charge.reserve)
        leases = tuple(lease.key for lease in ask.leases)
        if plain:
            self._queue([Refund(next(self._names), plain)])
        if nothing or leases:
            self._queue([Settlement(ask.request_id, nothing, leases)])

    async def _call(self, question: Callable[[Store], Awaitable[T]]) -> T:
        """Call the store, unless the breaker is open. Giving up a call does not affect others in its batch."""
        if not self._breaker.closed:
            raise StoreUnavailable(self._reason, "not called until a probe succeeds")
        began, answer = self._clock(), asyncio.ensure_future(question(self._store))
        try:
            found = await self._deadline.wait_for(answer)
        except TimeoutError:
            _drop(answer)
            raise StoreUnavailable("timeout", "no answer in time") from None
        except asyncio.CancelledError:
            _drop(answer)
            raise
        except StoreUnavailable as error:
            self._failed(error, began)
            raise
        self._breaker.succeeded(began, self._clock())
        return found

    def _timed_out(self, in_a_row: int) -> None:
        if in_a_row >= _TIMEOUTS:
            self._fail(StoreUnavailable("timeout", "it does not answer in time"), hard=True)
        else:
            self._observer.on_failure("timeout")

    def _failed(self, error: StoreUnavailable, began: float) -> None:
        if self._breaker.closed:
            self._fail(error, hard=error.kind in _CONCLUSIVE, began=began)

    def _fail(self, error: StoreUnavailable, *, hard: bool, began: float | None = None) -> None:
        now = self._clock()
        self._observer.on_failure(error.kind)
        self._reason = error.kind
        if self._breaker.failed(now if began is None else began, now, hard=hard):
            log.error("limits are decided without Redis until it answers again: %s", error)
            self._deadline.give_up()
            self._recover_soon()

    def _queue(self, events: Iterable[Event]) -> None:
        self._lost(self._backlog.add(events))
        self._recover_soon()

    def _lost(self, events: int) -> None:
        if events:
            self._observer.on_lost(events)

    def _recover_soon(self) -> None:
        if self._recovery is None or self._recovery.done():
            self._recovery = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        """Probe until the store answers, then send it what it has missed."""
        while self._admitted or self._backlog or not self._breaker.closed:
            await asyncio.sleep(self._breaker.wait_s)
            began = self._clock()
            try:
                await self._catch_up(began)
                await self._send_all(self._backlog)
            except StoreUnavailable as error:
                self._fail(error, hard=error.kind in _CONCLUSIVE, began=began)
            except Exception as error:  # nothing else would recover
                log.exception("sending Redis what it has missed failed; it is retried")
                self._fail(StoreUnavailable("other", repr(error)), hard=True, began=began)

    async def _catch_up(self, began: float) -> None:
        """Let the store decide again, once it answers, has its counts, and has charged all that was admitted."""
        await _within(self._store.settle([_PROBE]))
        if self._marker is not None and not self._breaker.closed and await self._marker.forgotten():
            await self._restore(self._marker)
        while self._admitted or self._late:
            if self._late:
                await asyncio.wait(self._late, timeout=_PROBE_S)
            if self._late:
                raise StoreUnavailable("timeout", "earlier calls are still unanswered")
            await self._send_all(self._admitted)
        if not self._breaker.closed:
            self._breaker.succeeded(began, self._clock())
            if self._fallback is not None:
                self._fallback.back()
            log.warning("Redis answers again and decides on limits")

    async def _send_all(self, backlog: Backlog) -> None:
        while events := backlog.oldest(_CHUNK):
            await asyncio.gather(*(self._send(backlog, event) for event in events))

    async def _send(self, backlog: Backlog, event: Event) -> None:
        """Called for many events at once: the store sends them in one round trip. Raises if a retry is needed."""
        try:
            await _within(_apply(self._store, event))
        except StoreUnavailable as error:
            if error.kind != "other" and not isinstance(event, Refund):  # might be refunded twice
                backlog.unsure(event)
                raise
            self._observer.on_failure(error.kind)
            self._lost(1)  # Redis answers, but rejects this one
        backlog.remove(event)

    async def _restore(self, marker: Marker) -> None:
        """Charge again what the store had counted, as far as this process knows; others may have done so already."""
        async with marker.restoring():
            used = [*self._seen.used(), *await self._remembered()]
            await _within(raise_to(self._store, used), _RESTORED_S)
        self._observer.on_restored(len(used))
        log.error("Redis came back empty: known usage of %d limits was charged again", len(used))


def _drop(answer: "asyncio.Future[T]") -> None:
    """Abandon a call that is repeated later, or no longer needed."""
    answer.cancel()
    answer.add_done_callback(_retrieved)


def _retrieved(answer: "asyncio.Future[T]") -> None:
    """Keeps asyncio from reporting the failure."""
    if not answer.cancelled():
        answer.exception()


async def _within(answer: Awaitable[T], most_s: float = _PROBE_S) -> T:
    """Wait for a call that no request waits for."""
    try:
        async with asyncio.timeout(most_s):
            return await answer
    except TimeoutError:
        raise StoreUnavailable("timeout", f"no answer in {most_s} s") from None


def _charged(answer: "asyncio.Future[Decision]") -> bool:
    """Whether the store has charged the ask. If it got the call and never answered while its connection lived, it is
    assumed to have done so, or to be about to."""
    if answer.cancelled():
        return False
    error = answer.exception()
    if error is None:
        return answer.result().allowed
    return isinstance(error, StoreUnavailable) and error.kind == "timeout"


async def _apply(store: Store, event: Event) -> None:
    match event:
        case Settlement():
            await store.settle([event])
        case Renewal():
            await store.renew([event])
        case Refund():
            await store.refund(event.charges)
        case Admission():
            await _charge(store, event)


async def _charge(store: Store, admission: Admission) -> None:
    """Charge an admitted request. It may be sent again: charges without reservation are settled under a name of their
    own, a lease is held once, and estimates that may have been reserved are left to the settlement, which charges in
    full what never was."""
    ask = admission.ask
    plain = tuple(charge for charge in ask.charges if not charge.reserve and charge.hits)
    reserved = tuple(unrefusing(c) for c in ask.charges if c.reserve and not admission.unsure)
    if plain:
        await store.settle([Settlement(f"{ask.request_id}~{admission.name}", plain)])
    if reserved or ask.leases:
        await store.decide(Ask(ask.request_id, reserved, tuple(map(unrefusing_lease, ask.leases))))
