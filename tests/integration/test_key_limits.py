"""Limits of single keys: they come with each request, and go by the family of keys that rotation made of each other."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import httpx2 as httpx
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
from ratelimit_service.metrics import Metrics
from ratelimit_service.plan import Plans
from ratelimit_service.service import RateLimits
from ratelimit_service.store.memory import MemoryStore
from ratelimit_service.store.port import Store
from ratelimit_service.store.redis.store import RedisStore
from testkit.fakes.fake_vllm import FakeVllm
from testkit.redis_server import redis_server
from testkit.running_gateway import ROOT, RunningGateway, running_gateway
from testkit.waiting import until

CHAT = "/v1/chat/completions"
FEW, METERED, ONE_AT_A_TIME, FREE = (f"sk-key-limits-{name}" for name in ("few-01", "metered", "single", "free-1"))
NOBODY = cast(Context, None)


@pytest.fixture(scope="module")
def limited(backend: FakeVllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """Only keys have limits here."""
    keys = {
        FEW: {"user_id": "ann", "tier": "free", "name": "few", "limits": {"requests_per_hour": 2}},
        METERED: {"user_id": "ann", "tier": "free", "name": "metered", "limits": {"tokens_per_hour": 1000}},
        ONE_AT_A_TIME: {"user_id": "ann", "tier": "free", "name": "single", "limits": {"concurrent_requests": 1}},
        FREE: {"user_id": "ann", "tier": "free", "name": "free"},
    }
    config = {
        "vllm": {"base_url": f"{backend.url}/v1", "default_model": "m"},
        "api_keys": keys,
        "rate_limits": {"free": {}},
    }
    with running_gateway(tmp_path_factory.mktemp("keys"), config) as running:
        yield running


def chat(gateway: RunningGateway, key: str, tokens: int = 1) -> httpx.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": "a b c"}], "max_tokens": tokens, "ignore_eos": True}
    return httpx.post(gateway.url + CHAT, json=body, headers={"x-api-key": key}, timeout=30)


def usage(gateway: RunningGateway, key: str) -> dict[str, Any]:
    shown: dict[str, Any] = httpx.get(f"{gateway.url}/v1/usage", headers={"x-api-key": key}).json()
    return {limit["name"]: limit for limit in shown["limits"]}


def test_a_keys_own_limit_holds_for_that_key_alone(limited: RunningGateway) -> None:
    answers = [chat(limited, FEW) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert "Maximum 2 requests per hour allowed for key 'few'." in answers[2].json()["detail"]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]
    assert chat(limited, FREE).status_code == 200
    assert limited.record(answers[2].headers["x-request-id"])["limited_by"] == "key_requests_per_hour"


def test_tokens_of_a_key_are_settled_by_the_true_count(limited: RunningGateway) -> None:
    answer = chat(limited, METERED, tokens=40)
    used = answer.json()["usage"]["total_tokens"]
    until(lambda: usage(limited, METERED)["key_tokens_per_hour"]["used"] == used)
    assert int(answer.headers["x-ratelimit-remaining-tokens"]) < 1000 - used, "the guess of its admission was higher"
    record = limited.record(answer.headers["x-request-id"])
    assert not {name for name in record if "limits" in name or "family" in name}


def test_a_keys_lease_is_given_back_when_its_request_ends(limited: RunningGateway) -> None:
    assert [chat(limited, ONE_AT_A_TIME).status_code for _ in range(5)] == [200] * 5


def test_usage_and_explain_show_the_limits_of_the_key(limited: RunningGateway) -> None:
    assert usage(limited, FREE) == {}
    assert usage(limited, METERED)["key_tokens_per_hour"]["limit"] == 1000
    config = str(limited.directory / "gatehouse.yaml")
    command = [sys.executable, "-m", "gatehouse.cli", "explain", "-c", config, "--json", "--key", METERED]
    explained = json.loads(subprocess.run(command, capture_output=True, timeout=20, cwd=ROOT, check=True).stdout)
    assert [limit["name"] for limit in explained["limits"]] == ["key_tokens_per_hour"]


def test_model_servers_hear_nothing_of_limits(limited: RunningGateway, backend: FakeVllm) -> None:
    assert chat(limited, METERED).status_code == 200
    assert not [name for name in backend.requests[-1].headers if "limits" in name.lower() or "family" in name.lower()]


@pytest_asyncio.fixture(params=["memory", "redis"])
async def limiter(request: pytest.FixtureRequest) -> AsyncIterator[RateLimits]:
    def serving(store: Store) -> RateLimits:
        return RateLimits(Plans(Config()), store, Metrics(CollectorRegistry()))

    if request.param == "memory":
        yield serving(MemoryStore())
        return
    with redis_server() as server:
        store = RedisStore(connect(server.url, timeout_s=5))
        yield serving(store)
        await store.close()


LIMITS = '{"requests_per_day":5,"tokens_per_day":1000}'


def asking(key_id: str, request_id: str, family: str = "-", limits: str = LIMITS) -> RateLimitRequest:
    """As Envoy asks for a request of a key made at run time."""
    request = RateLimitRequest(domain=DOMAIN)
    said = {"user": "ann", "team": "-", "tier": "free", "key_id": key_id, "key_limits": limits, "key_family": family}
    entries = request.descriptors.add().entries
    for key, value in (said | {"model": "m", "asks": "100/1/0/0", "request_id": request_id}).items():
        entries.add(key=key, value=value)
    return request


async def asked(limiter: RateLimits, request: RateLimitRequest) -> RateLimitResponse:
    return RateLimitResponse.FromString(await limiter.should_rate_limit(request, NOBODY))


async def left(limiter: RateLimits, key_id: str, family: str = "", limits: str = LIMITS) -> dict[str, int]:
    who = UsageRequest(user="ann", tier="free", key_id=key_id, key_limits=limits, key_family=family)
    return {window.name: window.remaining for window in (await limiter.report(who, NOBODY)).windows}


async def settle(limiter: RateLimits, key_id: str, request_id: str, tokens: int, family: str = "") -> None:
    done = Settlement(request_id=request_id, kind=Settlement.DONE, user="ann", tier="free", key_id=key_id, model="m")
    done.key_limits, done.key_family, done.output_tokens, done.counted = LIMITS, family, tokens, True
    await limiter.settle(SettleRequest(settlements=[done]), NOBODY)


@pytest.mark.asyncio
async def test_keys_of_one_family_share_a_counter(limiter: RateLimits) -> None:
    """A key `k1` and its successor `k2`, each used in turn."""
    turns = [("k1", "-"), ("k2", "k1")] * 3
    answers = [await asked(limiter, asking(key_id, f"r-{i}", family)) for i, (key_id, family) in enumerate(turns)]
    assert [answer.overall_code == RateLimitResponse.OK for answer in answers] == [True] * 5 + [False]
    assert (await left(limiter, "k1"))["key_requests_per_day"] == 0
    assert (await left(limiter, "k2"))["key_requests_per_day"] == 5, "another key, not of this family"


@pytest.mark.asyncio
async def test_tokens_of_a_successor_are_settled_where_they_were_reserved(limiter: RateLimits) -> None:
    await limiter.should_rate_limit(asking("k1", "r-1"), NOBODY)
    await limiter.should_rate_limit(asking("k2", "r-2", "k1"), NOBODY)
    assert (await left(limiter, "k1"))["key_tokens_per_day"] == 800
    await settle(limiter, "k1", "r-1", tokens=30)
    await settle(limiter, "k2", "r-2", tokens=50, family="k1")
    assert await left(limiter, "k1") == await left(limiter, "k2", "k1")
    assert (await left(limiter, "k1"))["key_tokens_per_day"] == 1000 - 30 - 50


@pytest.mark.asyncio
async def test_limits_that_cannot_be_read_let_pass_and_count_nothing(limiter: RateLimits) -> None:
    for i in range(20):
        answer = await asked(limiter, asking("k1", f"r-{i}", limits='{"requests_per_day":'))
        assert answer.overall_code == RateLimitResponse.OK
    assert (await left(limiter, "k1"))["key_requests_per_day"] == 5
