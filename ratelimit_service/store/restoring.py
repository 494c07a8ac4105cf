"""Restores charges in a store that may already have them."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from ratelimit_service.store.port import Ask, Charge, LeaseAsk, Store

AT_ONCE = 128
_NOBODY = "restored"  # the requests' own ids are unknown


async def raise_to(store: Store, used: Sequence[Charge]) -> None:
    """Raise the count of each bucket to the hits of its charge. Concurrent calls may charge twice."""
    for first in range(0, len(used), AT_ONCE):
        await asyncio.gather(*(_raise_to(store, charge) for charge in used[first : first + AT_ONCE]))


async def _raise_to(store: Store, used: Charge) -> None:
    now = (await store.peek(Ask(_NOBODY, (used._replace(hits=0),)))).outcomes[0]
    missing = used.hits - (used.limit.capacity - now.remaining)
    if missing > 0 and now.remaining > 0:
        await store.decide(Ask(_NOBODY, (unrefusing(used._replace(hits=missing)),)))


def unrefusing(charge: Charge) -> Charge:
    """The same charge, against a shadow limit so that it is never refused."""
    return charge._replace(limit=replace(charge.limit, shadow=True))


def unrefusing_lease(lease: LeaseAsk) -> LeaseAsk:
    """The same lease, as a shadow so that it is never refused."""
    return replace(lease, shadow=True)
