"""The store in Redis (7.0 or newer), shared by all replicas of the service.

One script call decides a request. On a Redis Cluster that step is atomic for the buckets and leases of one `{tag}`: an
ask that spans several is decided per tag, and if one part is refused the admitted parts are undone. In between, for a
round trip, other requests see their charge: they may be refused too early, but never admitted too much.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence

from redis.asyncio import RedisCluster

from gatehouse.redis_client.client import Client
from ratelimit_service.store.port import Ask, Charge, Decision, Renewal, Settlement
from ratelimit_service.store.redis.calls import Calls
from ratelimit_service.store.redis.line import Reply
from ratelimit_service.store.redis.parts import Part, join, split_ask, split_settlements
from ratelimit_service.store.redis.scripts import DECIDE, PEEK, Script
from ratelimit_service.store.redis.wire import Wire, decision

SETTLED_AT_ONCE = 32
"""Settlements in one script call, which blocks Redis for some 0.3 ms."""


class RedisStore:
    """`Store` on a client from `redis_client.connect`, which it closes.

    `clock`, in milliseconds, replaces Redis's own clock in tests.
    """

    def __init__(self, client: Client, *, prefix: str = "gh:", clock: Callable[[], int] | None = None) -> None:
        self._calls = Calls(client)
        self._prefix = prefix
        self._clock = clock
        self._cluster = isinstance(client, RedisCluster)

    @property
    def answers(self) -> int:
        """The number of replies received, to any call: Redis is alive while it grows."""
        return self._calls.answers

    async def decide(self, ask: Ask) -> Decision:
        if self._cluster:
            parts = split_ask(ask)
            return join(ask, parts, await self._decide_parts(parts))
        return await self._ask(DECIDE, ask)

    async def peek(self, ask: Ask) -> Decision:
        if self._cluster:
            parts = split_ask(ask)
            return join(ask, parts, await asyncio.gather(*(self._ask(PEEK, part.ask) for part in parts)))
        return await self._ask(PEEK, ask)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        wire = self._wire()
        for batch in _batches(settlements):
            steps = split_settlements(batch) if self._cluster else [batch]
            await self._calls.run_all(map(wire.settle, steps))

    async def refund(self, charges: Sequence[Charge]) -> None:
        wire = self._wire()
        await self._calls.run_all(wire.refund(charge) for charge in charges)

    async def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        wire = self._wire()
        return [held == 1 for held in await self._calls.run_all(wire.renew(renewal) for renewal in renewals)]

    async def close(self) -> None:
        await self._calls.close()

    async def _ask(self, script: Script, ask: Ask) -> Decision:
        return decision(ask, await self._calls.run(self._wire().decide(script, ask)))

    async def _decide_parts(self, parts: Sequence[Part]) -> list[Decision]:
        """Charge every part, or none."""
        wire = self._wire()
        calls = [self._calls.run(wire.decide(DECIDE, part.ask)) for part in parts]
        replies: list[Reply] = await asyncio.gather(*calls, return_exceptions=True)
        failures = [reply for reply in replies if isinstance(reply, BaseException)]
        admitted = [i for i, reply in enumerate(replies) if not isinstance(reply, BaseException) and reply[0] == 1]
        if len(admitted) < len(parts):
            await self._calls.run_all(wire.undo(parts[i].ask, replies[i]) for i in admitted)
            if failures:
                raise failures[0]
            for i in admitted:
                replies[i] = await self._calls.run(wire.decide(PEEK, parts[i].ask))
        return [decision(part.ask, reply) for part, reply in zip(parts, replies, strict=True)]

    def _wire(self) -> Wire:
        return Wire(self._prefix, self._clock() if self._clock else "", self._cluster)


def _batches(settlements: Sequence[Settlement]) -> Iterator[Sequence[Settlement]]:
    for begin in range(0, len(settlements), SETTLED_AT_ONCE):
        yield settlements[begin : begin + SETTLED_AT_ONCE]
