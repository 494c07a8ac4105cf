"""Redis and the specification in memory agree on every answer, over random schedules.

Both run on the test's clock. Redis's own clock, which ends its keys, stands still meanwhile, so the test shortens the
keys' lives itself whenever its clock moves.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehouse.redis_client.client import connect
from ratelimit_service.store.limits import MAX_AMOUNT, Algorithm, Limit
from ratelimit_service.store.memory import MemoryStore
from ratelimit_service.store.port import Ask, Charge, Decision, LeaseAsk, Renewal, Settlement
from ratelimit_service.store.redis.store import RedisStore
from testkit.redis_server import redis_server

Step = Ask | list[Settlement] | Renewal | int  # an int moves the clock, in milliseconds

_AGE = """
for _, key in ipairs(redis.call('KEYS', '*')) do
  redis.call('PEXPIRE', key, redis.call('PTTL', key) - tonumber(ARGV[1]))
end
"""

request_ids = st.sampled_from(["r1", "r2", "r3", "r4"])
amounts = st.one_of(st.integers(0, 12), st.integers(0, MAX_AMOUNT))
periods = st.sampled_from([1, 60, 3_600, 86_400, 31_536_000])


@st.composite
def limits(draw: st.DrawFn) -> Limit:
    algorithm = draw(st.sampled_from(Algorithm))
    amount, burst = draw(amounts), None
    if algorithm is Algorithm.TOKEN_BUCKET:
        amount, burst = max(1, amount), draw(st.none() | amounts.map(lambda size: max(1, size)))
    return Limit("x", amount, draw(periods), algorithm, burst, draw(st.booleans()))


@st.composite
def charges(draw: st.DrawFn, limit: Limit) -> Charge:
    hits = st.one_of(st.integers(0, 3), st.integers(0, limit.capacity), st.integers(0, MAX_AMOUNT))
    return Charge(draw(st.sampled_from(["{a}", "{b}"])), limit, draw(hits), draw(st.booleans()))


@st.composite
def schedules(draw: st.DrawFn) -> list[Step]:
    chosen = draw(st.lists(limits(), min_size=1, max_size=3, unique_by=lambda limit: (limit.algorithm, limit.period_s)))
    some = st.lists(st.sampled_from(chosen).flatmap(charges), max_size=3).map(tuple)
    lease = st.builds(LeaseAsk, st.sampled_from(["{a}", "{b}"]), st.just("c"), st.integers(0, 3), st.integers(1, 5_000))
    leases_held = st.lists(st.sampled_from(["{a}", "{b}"]), max_size=2).map(tuple)
    period = draw(st.sampled_from(chosen)).period_ms
    moves = st.one_of(
        st.integers(0, 5), st.integers(0, 2_000), st.integers(0, 2 * period), st.sampled_from([period - 1, period])
    )
    steps = st.one_of(
        st.builds(Ask, request_ids, some, st.lists(lease, max_size=2).map(tuple)),
        moves,
        st.builds(Ask, request_ids, some, st.just(())),
        st.lists(st.builds(Settlement, request_ids, some, leases_held, st.booleans()), min_size=1, max_size=4),
        st.builds(Renewal, request_ids, st.sampled_from(["{a}", "{b}"]), st.integers(1, 5_000)),
    )
    return draw(st.lists(steps, max_size=30))


def edges(decision: Decision) -> Iterator[Ask]:
    """For each charge: just as many hits as still pass, and one more."""
    for outcome in decision.outcomes:
        for hits in (outcome.remaining, outcome.remaining + 1):
            yield Ask("edge", (outcome.charge._replace(hits=min(hits, MAX_AMOUNT)),))


class Twins:
    """The two stores, on one clock and one event loop."""

    def __init__(self, url: str) -> None:
        self.now = 0
        self._client = connect(url, timeout_s=10, connect_timeout_s=10)
        self._redis = RedisStore(self._client, clock=lambda: self.now)

    async def play(self, start: int, schedule: list[Step]) -> None:
        await self._client.flushall()
        self.now, memory = start, MemoryStore(lambda: self.now)
        for step in schedule:
            match step:
                case Ask():
                    assert await self._redis.peek(step) == await memory.peek(step)
                    decision = await memory.decide(step)
                    assert await self._redis.decide(step) == decision
                    for edge in edges(decision):
                        assert await self._redis.peek(edge) == await memory.peek(edge)
                case list():
                    await self._redis.settle(step)
                    await memory.settle(step)
                    left = Ask("left", tuple(charge for settlement in step for charge in settlement.charges))
                    assert await self._redis.peek(left) == await memory.peek(left)
                case Renewal():
                    assert await self._redis.renew([step]) == await memory.renew([step])
                case int():
                    self.now += step
                    await self._client.eval(_AGE, 0, step)

    async def close(self) -> None:
        await self._redis.close()


@dataclass
class Stage:
    """Twins that plain functions, as hypothesis wants them, can play on."""

    runner: asyncio.Runner
    twins: Twins

    def play(self, start: int, schedule: list[Step]) -> None:
        self.runner.run(self.twins.play(start, schedule))


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with redis_server() as server, asyncio.Runner() as runner:
        stage = Stage(runner, Twins(server.url))
        yield stage
        runner.run(stage.twins.close())


starts = st.integers(10**12, 2 * 10**12)
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@given(starts, schedules())
@settings(relaxed, max_examples=200)
def test_lua_agrees_with_the_specification(stage: Stage, start: int, schedule: list[Step]) -> None:
    stage.play(start, schedule)


@pytest.mark.slow
@given(starts, schedules())
@settings(relaxed, max_examples=10_000)
def test_lua_agrees_with_the_specification_at_length(stage: Stage, start: int, schedule: list[Step]) -> None:
    stage.play(start, schedule)


@given(starts, st.lists(st.tuples(st.integers(-3_000, 3_000), st.integers(0, 4)), max_size=20), limits())
@settings(relaxed, max_examples=60)
def test_lua_agrees_when_the_clock_steps_back(
    stage: Stage, start: int, steps: list[tuple[int, int]], limit: Limit
) -> None:
    stage.play(start, [each for move, hits in steps for each in (move, Ask("r1", (Charge("{a}", limit, hits),)))])
