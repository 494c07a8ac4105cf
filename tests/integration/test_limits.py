"""Request limits of the short form, as clients meet them."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx2 as httpx
import openai
import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.redis_server import redis_server
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until
from tests.integration.conftest import FREE, MODEL, PREMIUM, STANDARD, short_form

DECISIONS = "api_rate_limit_decisions_total"
CHAT = "/v1/chat/completions"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


HASTY, LISTING, LAPTOP, PHONE = (f"sk-limits-{name}-0001" for name in ("hasty", "listing", "laptop", "phone"))
MORE = {
    HASTY: {"user_id": "hasty", "tier": "bucket"},
    LISTING: {"user_id": "listing", "tier": "free"},
    LAPTOP: {"user_id": "paula", "tier": "free"},
    PHONE: {"user_id": "paula", "tier": "free"},
}
"""Whose counters start at zero, each for a test of its own."""


@pytest.fixture(scope="module", params=[pytest.param("memory", marks=pytest.mark.slow), "redis"])
def gateway(
    request: pytest.FixtureRequest, backend: FakeVllm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """With each store."""
    config: dict[str, Any] = short_form(backend)
    config["api_keys"] |= MORE
    config["rate_limits"]["bucket"] = {"requests_per_second": 2, "algorithm": "token_bucket"}
    with ExitStack() as stack:
        if request.param == "redis":
            config["redis"] = {"url": stack.enter_context(redis_server()).url, "timeout_ms": 250}
        yield stack.enter_context(running_gateway(tmp_path_factory.mktemp("limits"), config))


@pytest.mark.parametrize(
    ("key", "tier", "amount", "per_hour"),
    [(PREMIUM, "premium", 100, 1000), (STANDARD, "standard", 30, 300), (FREE, "free", 10, 100)],
)
def test_one_request_more_than_the_minute_allows_is_429(
    gateway: RunningGateway, backend: FakeVllm, key: str, tier: str, amount: int, per_hour: int
) -> None:
    allowed = gateway.metric(DECISIONS, limit="requests_per_minute", result="allowed")
    with gateway.client(headers={"authorization": f"Bearer {key}"}) as client:
        reached = len(backend.requests)
        for count in range(1, amount + 1):
            answer = client.post(CHAT, json=BODY)
            assert answer.status_code == 200
            assert answer.headers["x-ratelimit-limit-minute"] == str(amount)
            assert answer.headers["x-ratelimit-remaining-minute"] == str(amount - count)
            assert answer.headers["x-ratelimit-limit-hour"] == str(per_hour)
            assert answer.headers["x-ratelimit-remaining-hour"] == str(per_hour - count)
        refused = client.post(CHAT, json=BODY)
        assert len(backend.requests) - reached == amount
    assert refused.status_code == 429
    assert refused.headers["content-type"] == "application/json"
    assert refused.headers["x-ratelimit-remaining-minute"] == "0"
    assert refused.headers["x-ratelimit-remaining-hour"] == str(per_hour - amount), "a refusal consumes nothing"
    assert 0 < int(refused.headers["retry-after"]) <= 120
    assert 0 <= int(refused.headers["retry-after"]) * 1000 - int(refused.headers["retry-after-ms"]) < 1000
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    said = f"Rate limit exceeded. Maximum {amount} requests per minute allowed for tier '{tier}'. Please try again in "
    assert error["message"].startswith(said)
    record = gateway.record(refused.headers["x-request-id"])
    assert (record["status"], record["limited_by"]) == (429, "requests_per_minute")
    assert record["error_code"] == "rate_limit_exceeded"
    until(lambda: gateway.metric(DECISIONS, limit="requests_per_minute", result="allowed") - allowed == amount)


def test_the_openai_sdk_raises_rate_limit_error_and_waits_as_told(gateway: RunningGateway) -> None:
    hasty = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=HASTY, max_retries=0)
    messages = [{"role": "user", "content": "hi"}]
    with pytest.raises(openai.RateLimitError) as caught:  # noqa: PT012 - one of these, whichever
        for _ in range(20):
            hasty.chat.completions.create(model=MODEL, messages=messages)  # type: ignore[arg-type]
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.request_id
    wait_s = int(caught.value.response.headers["retry-after-ms"]) / 1000
    patient = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=HASTY, max_retries=3)
    started = time.monotonic()
    assert patient.chat.completions.create(model=MODEL, messages=messages).choices  # type: ignore[arg-type]
    assert time.monotonic() - started >= wait_s * 0.5
    refused = [r for r in gateway.records() if r["user_id"] == "hasty" and r["status"] == 429]
    assert len(refused) <= 3, "a client that waits as told is let in"


def test_two_keys_of_one_user_share_their_counters(gateway: RunningGateway) -> None:
    with gateway.client() as client:
        for key in (LAPTOP, PHONE):
            answer = client.post(CHAT, json=BODY, headers={"x-api-key": key})
    assert answer.headers["x-ratelimit-remaining-minute"] == "8"


def test_listing_models_and_health_cost_nothing(gateway: RunningGateway) -> None:
    headers = {"authorization": f"Bearer {LISTING}"}
    for path in ("/v1/models", "/health", "/metrics"):
        assert httpx.get(gateway.url + path, headers=headers).status_code == 200
    answer = httpx.post(gateway.url + CHAT, json=BODY, headers=headers)
    assert answer.headers["x-ratelimit-remaining-minute"] == "9"
