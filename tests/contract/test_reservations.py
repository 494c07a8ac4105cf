"""What requests reserve while they run, and what they are charged in the end: the service itself, with each store."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from gatehouse.config.model import Config
from gatehouse.contract.names import DOMAIN
from gatehouse.pb.rls_pb2 import RateLimitRequest, RateLimitResponse
from gatehouse.pb.settlement_pb2 import Settlement, SettleRequest
from gatehouse.pb.usage_pb2 import UsageRequest
from gatehouse.redis_client.client import connect
from gatehouse.rpc.service import Context
from ratelimit_service.estimate.answer_lengths import FEW
from ratelimit_service.metrics import Metrics
from ratelimit_service.plan import Plans
from ratelimit_service.service import RateLimits
from ratelimit_service.store.memory import MemoryStore
from ratelimit_service.store.port import Store
from ratelimit_service.store.redis.store import RedisStore
from testkit.redis_server import RedisServer, redis_server

pytestmark = pytest.mark.asyncio

NOBODY = cast(Context, None)
PRICE = {"input": 1.0, "output": 2.0}
CONFIG = Config.model_validate(
    {
        "models": {"m": {"backends": [{"url": "http://h/v1"}], "price_per_million_tokens": PRICE}},
        "default_model": "m",
        "rate_limits": {
            "thousand": {"tokens_per_minute": 1000},
            "ten-thousand": {"tokens_per_minute": 10_000},
            "images": {"tokens_per_minute": 100_000},
            "free": {"requests_per_day": 10, "tokens_per_day": 20_000},
            "writer": {"output_tokens_per_day": 100},
            "tight": {"tokens_per_day": 100, "output_tokens_per_day": 100, "budget_usd_per_month": 0.0002},
            "poor": {"budget_usd_per_month": 0.01},
            "watched": {"tokens_per_day": 20_000, "shadow": True},
        },
    }
)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest_asyncio.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest, redis: RedisServer) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    redis.client().flushall()
    store = RedisStore(connect(redis.url, timeout_s=10))
    yield store
    await store.close()


class Limiter:
    """The service, for one user."""

    def __init__(self, store: Store, tier: str) -> None:
        self._service = RateLimits(Plans(CONFIG), store, Metrics(CollectorRegistry()))
        self._tier = tier
        self._number = 0

    async def ask(self, asks: str) -> RateLimitResponse:
        self._number += 1
        request = RateLimitRequest(domain=DOMAIN)
        entries = request.descriptors.add().entries
        said = {"user": "ann", "tier": self._tier, "key_id": "k", "model": "m", "asks": asks}
        for key, value in (said | {"request_id": f"r-{self._number}"}).items():
            entries.add(key=key, value=value)
        return RateLimitResponse.FromString(await self._service.should_rate_limit(request, NOBODY))

    async def passes(self, asks: str) -> bool:
        return (await self.ask(asks)).overall_code == RateLimitResponse.OK

    async def end(self, asks: str, times: int = 2, **fields: Any) -> None:
        """Of the request asked about last. Settled twice, for that is what may happen."""
        done = Settlement(request_id=f"r-{self._number}", kind=Settlement.DONE, user="ann", tier=self._tier, model="m")
        done.MergeFrom(Settlement(asks=asks, **fields))
        for _ in range(times):
            await self._service.settle(SettleRequest(settlements=[done]), NOBODY)

    async def used(self) -> dict[str, int]:
        report = await self._service.report(UsageRequest(user="ann", tier=self._tier, model="m"), NOBODY)
        return {window.name: window.limit - window.remaining for window in report.windows}

    async def refusal(self) -> str:
        """What `GET /v1/usage` says a small request would be refused with."""
        return (await self._service.report(UsageRequest(user="ann", tier=self._tier), NOBODY)).refusal


def error(answer: RateLimitResponse) -> tuple[str, str]:
    said = json.loads(answer.raw_body)["error"]
    return said["code"], said["message"]


def headers(answer: RateLimitResponse) -> dict[str, str]:
    return {header.key: header.value for header in answer.response_headers_to_add}


async def test_of_six_calls_with_ten_choices_each_about_one_passes(store: Store) -> None:
    limiter = Limiter(store, "thousand")
    assert [await limiter.passes("90/10/100/0") for _ in range(6)] == [True] + [False] * 5


async def test_of_six_prompts_that_are_larger_than_the_limit_one_passes(store: Store) -> None:
    limiter = Limiter(store, "thousand")
    assert [await limiter.passes("10/1/16000/0") for _ in range(6)] == [True] + [False] * 5


async def test_a_small_chat_leaves_room_for_a_large_prompt_but_not_for_two(store: Store) -> None:
    limiter = Limiter(store, "thousand")
    assert await limiter.passes("10/1/40/0")
    await limiter.end("10/1/40/0", counted=True, input_tokens=10, output_tokens=9, status=200)
    assert [await limiter.passes("100/1/600000/0") for _ in range(2)] == [True, False]


async def test_an_image_is_an_image_whatever_its_bytes(store: Store) -> None:
    limiter = Limiter(store, "images")
    assert await limiter.passes("16/1/80/0")
    assert await limiter.passes("16/1/120/1")
    assert (await limiter.used())["tokens_per_minute"] == 20 + 16 + 30 + 1024 + 16


async def test_forty_small_embeddings_at_a_time_all_pass(store: Store) -> None:
    limiter = Limiter(store, "ten-thousand")
    assert [await limiter.passes("0/1/40/0") for _ in range(40)] == [True] * 40


async def test_what_generates_nothing_passes_a_spent_limit_on_output(store: Store) -> None:
    limiter = Limiter(store, "writer")
    assert await limiter.passes("100/1/40/0")
    await limiter.end("100/1/40/0", counted=True, input_tokens=10, output_tokens=120, status=200)
    assert not await limiter.passes("1/1/40/0")
    assert await limiter.passes("0/1/400/0")
    assert await limiter.passes("0/1/0/0")
    await limiter.end("0/1/0/0", counted=True, input_tokens=0, status=200)
    assert (await limiter.used())["output_tokens_per_day"] == 100, "no more is left, and no more is shown"


async def test_what_uses_no_tokens_passes_every_spent_limit_on_them(store: Store) -> None:
    limiter = Limiter(store, "tight")
    assert await limiter.passes("40/1/40/0")
    await limiter.end("40/1/40/0", counted=True, input_tokens=100, output_tokens=100, status=200)
    assert not await limiter.passes("0/1/40/0"), "an embedding needs tokens and money"
    assert await limiter.passes("0/1/0/0")


@pytest.mark.parametrize("asks", ["50000/1/40/0", "25000/2/40/0"])
async def test_what_can_never_pass_is_told_both_numbers_and_takes_nothing(store: Store, asks: str) -> None:
    limiter = Limiter(store, "free")
    answer = await limiter.ask(asks)
    assert answer.overall_code == RateLimitResponse.OVER_LIMIT
    code, message = error(answer)
    assert code == "rate_limit_exceeded"
    assert message.startswith(
        "This request asks for up to 50000 tokens; at most 20000 tokens per day are allowed for tier 'free'. "
        "Lower max_tokens"
    )
    assert "choices" in message if "/2/" in asks else message.endswith("Lower max_tokens.")
    said = headers(answer)
    assert said["x-should-retry"] == "false"
    assert said["x-ratelimit-remaining-tokens"] == "20000"
    assert not {"retry-after", "retry-after-ms"} & said.keys()
    assert answer.dynamic_metadata["limited_by"] == "tokens_per_day"
    assert await limiter.used() == {"requests_per_day": 0, "tokens_per_day": 0}
    assert await limiter.refusal() == ""
    assert await limiter.passes("15000/1/40/0")


async def test_a_number_of_thirteen_digits_can_never_pass(store: Store) -> None:
    code, message = error(await Limiter(store, "free").ask("9999999999999/1/40/0"))
    assert code == "rate_limit_exceeded"
    assert "up to 999999999999 tokens; at most 20000 tokens per day" in message


async def test_what_no_budget_can_pay_for_is_told_so(store: Store) -> None:
    limiter = Limiter(store, "poor")
    answer = await limiter.ask("6000/1/40/0")
    assert error(answer) == (
        "insufficient_quota",
        "This request may cost up to 0.012 USD; at most 0.01 USD per month are allowed for tier 'poor'. "
        "Lower max_tokens.",
    )
    assert headers(answer)["x-should-retry"] == "false"
    assert "retry-after" not in headers(answer)
    assert answer.dynamic_metadata["limited_by"] == "budget_usd_per_month"
    assert await limiter.used() == {"budget_usd_per_month": 0}
    assert await limiter.passes("3000/1/40/0")


async def test_a_shadow_limit_refuses_nothing_however_large(store: Store) -> None:
    assert await Limiter(store, "watched").passes("50000/1/40/0")


async def test_whoever_sets_no_bound_reserves_what_answers_usually_take(store: Store) -> None:
    limiter, asks = Limiter(store, "ten-thousand"), "-/2/0/0"
    for number in range(FEW):
        assert await limiter.passes(asks)
        assert (await limiter.used())["tokens_per_minute"] == 60 * number + 1024
        await limiter.end(asks, 1, counted=True, input_tokens=0, output_tokens=60, status=200, complete=True)
    assert await limiter.passes(asks)
    assert (await limiter.used())["tokens_per_minute"] == 60 * FEW + 2 * 30


@pytest.mark.parametrize(
    "fields",
    [
        {"complete": False, "counted": True},
        {"complete": True, "counted": False},
        {"complete": True, "counted": True, "late": True},
    ],
)
async def test_only_whole_answers_that_were_counted_teach(store: Store, fields: dict[str, bool]) -> None:
    limiter, asks = Limiter(store, "images"), "-/1/0/0"
    for _ in range(FEW + 1):
        assert await limiter.passes(asks)
        await limiter.end(asks, input_tokens=0, output_tokens=30, status=200, **fields)
        settled = await limiter.used()
        assert await limiter.passes(asks)
        assert (await limiter.used())["tokens_per_minute"] - settled["tokens_per_minute"] == 512


@pytest.mark.parametrize(
    ("asks", "answer_bytes", "charged"),
    [
        ("100/1/400/0", 200, 100 + 100),
        ("100/1/400/0", 4001, 100 + 1001),
        ("-/1/400/0", 40, 100 + 512),
        ("0/1/400/0", 40_000, 100),
    ],
)
async def test_an_answer_that_nobody_counted_is_charged_the_guess_or_its_size(
    store: Store, asks: str, answer_bytes: int, charged: int
) -> None:
    limiter = Limiter(store, "ten-thousand")
    assert await limiter.passes(asks)
    await limiter.end(asks, counted=False, complete=True, answer_bytes=answer_bytes, status=200)
    assert (await limiter.used())["tokens_per_minute"] == charged


async def test_a_stream_that_was_cut_before_any_count_keeps_its_reservation(store: Store) -> None:
    limiter = Limiter(store, "ten-thousand")
    assert await limiter.passes("100/1/400/0")
    await limiter.end("100/1/400/0", counted=False, answer_bytes=90_000, status=200)
    assert (await limiter.used())["tokens_per_minute"] == 200


async def test_a_stream_that_was_cut_after_some_output_is_charged_that_and_the_guess_of_its_prompt(
    store: Store,
) -> None:
    limiter = Limiter(store, "ten-thousand")
    assert await limiter.passes("100/1/400/0")
    await limiter.end("100/1/400/0", counted=True, output_tokens=7, status=200)
    assert (await limiter.used())["tokens_per_minute"] == 107


async def test_an_error_inside_an_answer_is_charged_what_was_produced(store: Store) -> None:
    limiter = Limiter(store, "ten-thousand")
    assert await limiter.passes("100/1/400/0")
    await limiter.end("100/1/400/0", counted=True, input_tokens=0, status=200)
    assert (await limiter.used())["tokens_per_minute"] == 0
