"""Calls of Envoy that get no decision, and batches of settlements that let decisions have their turn."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from gatehouse.config.model import Config
from gatehouse.contract.names import DOMAIN
from gatehouse.pb.rls_pb2 import RateLimitRequest, RateLimitResponse
from gatehouse.pb.settlement_pb2 import Settlement as Settled
from gatehouse.pb.settlement_pb2 import SettleRequest
from gatehouse.pb.usage_pb2 import UsageRequest
from ratelimit_service.caller import Caller
from ratelimit_service.estimate.answer_lengths import FEW, UNKNOWN
from ratelimit_service.metrics import Metrics
from ratelimit_service.plan import Plans
from ratelimit_service.service import SETTLED_AT_ONCE, RateLimits
from ratelimit_service.store.memory import MemoryStore
from ratelimit_service.store.port import Ask, Decision, Settlement
from ratelimit_service.waiting_room import Room

pytestmark = pytest.mark.asyncio

NOBODY: Any = None
LIMITED = Config.model_validate({"rate_limits": {"free": {"requests_per_minute": 3}, "open": {}}})
WHO = {"user": "ann", "team": "-", "tier": "free", "key_id": "k1", "model": "m"}


class Slow(MemoryStore):
    """Decides when it is told to, and notes how much is settled at once."""

    def __init__(self) -> None:
        super().__init__()
        self.decides = asyncio.Event()
        self.slices: list[int] = []
        self.degraded = False

    async def decide(self, ask: Ask) -> Decision:
        await self.decides.wait()
        return (await super().decide(ask))._replace(degraded=self.degraded)

    async def peek(self, ask: Ask) -> Decision:
        return (await super().peek(ask))._replace(degraded=self.degraded)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        self.slices.append(len(settlements))
        await super().settle(settlements)


class Served:
    def __init__(self, config: Config = LIMITED, most: int = 100) -> None:
        self.registry = CollectorRegistry()
        self.store = Slow()
        self.limits = RateLimits(Plans(config), self.store, Metrics(self.registry), room=Room(most))

    async def ask(self, **said: str) -> RateLimitResponse:
        request = RateLimitRequest(domain=DOMAIN)
        entries = request.descriptors.add().entries
        for key, value in (WHO | said).items():
            entries.add(key=key, value=value)
        return RateLimitResponse.FromString(await self.limits.should_rate_limit(request, NOBODY))

    def count(self, name: str) -> float:
        return self.registry.get_sample_value(name) or 0


def refused_with(answer: RateLimitResponse) -> str:
    assert answer.overall_code == RateLimitResponse.OVER_LIMIT
    assert {header.key: header.value for header in answer.response_headers_to_add}["retry-after"] == "1"
    return str(answer.dynamic_metadata["error_code"])


@pytest.mark.parametrize("missing", ["user", "tier", "key_id"])
async def test_a_call_that_does_not_say_who_asks_is_refused_and_told(
    missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    served = Served()
    for _ in range(3):
        assert refused_with(await served.ask(**{missing: "-"})) == "auth_unavailable"
    assert served.count("api_rate_limit_unidentified_total") == 3
    assert len(caplog.records) == 1, "once a minute"


async def test_an_unknown_tier_is_refused_and_one_without_limits_passes() -> None:
    served = Served()
    assert refused_with(await served.ask(tier="gone")) == "auth_unavailable"
    assert (await served.ask(tier="open")).overall_code == RateLimitResponse.OK


async def test_where_no_tier_has_limits_every_tier_is_known() -> None:
    assert (await Served(Config()).ask(tier="standard")).overall_code == RateLimitResponse.OK


async def test_beyond_its_room_the_service_refuses_who_holds_the_most_and_counts_the_others() -> None:
    served = Served(most=4)
    waiting = [asyncio.create_task(served.ask(user="flood")) for _ in range(4)]
    await asyncio.sleep(0)
    assert refused_with(await served.ask(user="flood")) == "server_is_overloaded"
    other = asyncio.create_task(served.ask(user="ann"))
    await asyncio.sleep(0)
    served.store.decides.set()
    assert (await other).overall_code == RateLimitResponse.OK
    assert [(await each).overall_code for each in waiting].count(RateLimitResponse.OK) == 3
    assert served.count("api_rate_limit_overrun_total") == 1
    assert "limited_by" in (await served.ask(user="flood")).dynamic_metadata.fields, "there is room again"


async def test_settlements_are_taken_in_slices_and_decisions_have_their_turn() -> None:
    served, turns = Served(), 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    entries = [Settled(request_id=f"r{i}", kind=Settled.DONE, user="ann", tier="free", key_id="k") for i in range(500)]
    await served.limits.settle(SettleRequest(settlements=entries), NOBODY)
    task.cancel()
    assert max(served.store.slices) == SETTLED_AT_ONCE == 32
    assert sum(served.store.slices) == 500
    assert turns >= len(served.store.slices)


@pytest.mark.parametrize(("output", "usual"), [({"output_tokens": 40}, 40), ({}, UNKNOWN)])
async def test_only_counted_output_says_how_long_answers_are(output: dict[str, Any], usual: int) -> None:
    """A `/tokenize` has no output, and says nothing of the user's chats."""
    plans = Plans(LIMITED)
    limits = RateLimits(plans, MemoryStore(), Metrics(CollectorRegistry()))
    ended = Settled(kind=Settled.DONE, user="ann", tier="free", key_id="k", model="m", counted=True, complete=True)
    for number in range(FEW):
        ended.MergeFrom(Settled(request_id=f"r{number}", **output))
        await limits.settle(SettleRequest(settlements=[ended]), NOBODY)
    assert plans.guess(Caller("ann", tier="free", key_id="k", model="m")).output == usual


async def test_a_report_says_that_it_is_degraded() -> None:
    served = Served()
    request = UsageRequest(user="ann", tier="free", key_id="k1")
    assert not (await served.limits.report(request, NOBODY)).degraded
    served.store.degraded = True
    assert (await served.limits.report(request, NOBODY)).degraded


async def test_who_admits_without_redis_says_who_is_to_hear_of_the_end() -> None:
    config = Config.model_validate({"rate_limits": {"free": {"concurrent_requests": 2}}})
    served = Served(config)
    served.store.decides.set()
    assert "leased_by" not in (await served.ask(request_id="r1")).dynamic_metadata.fields
    served.store.degraded = True
    answer = await served.ask(request_id="r2")
    assert answer.dynamic_metadata["leased_by"] == 0
    assert {header.key for header in answer.response_headers_to_add} == {"x-ratelimit-degraded"}
