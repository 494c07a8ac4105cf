"""Request limits of the short form, as clients meet them."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2 as httpx
import openai
import pytest

from tests.fakes.fake_vllm import FakeVllm
from tests.integration.conftest import FREE, MODEL, PREMIUM, STANDARD, short_form
from tests.redis_server import redis_server
from tests.running_gateway import RunningGateway, running_gateway
from tests.waiting import until

CHAT = "/v1/chat/completions"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(params=[pytest.param("memory", marks=pytest.mark.slow), "redis"])
def fresh(request: pytest.FixtureRequest, backend: FakeVllm, tmp_path: Path) -> Iterator[RunningGateway]:
    """A gateway whose counters start at zero, with each store."""
    config = short_form(backend)
    with ExitStack() as stack:
        if request.param == "redis":
            config["redis"] = {"url": stack.enter_context(redis_server()).url, "timeout_ms": 250}
        yield stack.enter_context(running_gateway(tmp_path, config))


@pytest.mark.parametrize(
    ("key", "tier", "amount", "per_hour"),
    [(PREMIUM, "premium", 100, 1000), (STANDARD, "standard", 30, 300), (FREE, "free", 10, 100)],
)
def test_one_request_more_than_the_minute_allows_is_429(
    fresh: RunningGateway, backend: FakeVllm, key: str, tier: str, amount: int, per_hour: int
) -> None:
    with fresh.client(headers={"authorization": f"Bearer {key}"}) as client:
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
    record = fresh.record(refused.headers["x-request-id"])
    assert (record["status"], record["limited_by"]) == (429, "requests_per_minute")
    assert record["error_code"] == "rate_limit_exceeded"
    line = f'api_rate_limit_decisions_total{{limit="requests_per_minute",result="allowed"}} {amount}.0'
    until(lambda: line in fresh.metrics())


def test_the_openai_sdk_raises_rate_limit_error_and_waits_as_told(backend: FakeVllm, tmp_path: Path) -> None:
    config = short_form(backend)
    config["rate_limits"]["free"] = {"requests_per_second": 2, "algorithm": "token_bucket"}  # type: ignore[index]
    with running_gateway(tmp_path, config) as running:
        hasty = openai.OpenAI(base_url=f"{running.url}/v1", api_key=FREE, max_retries=0)
        messages = [{"role": "user", "content": "hi"}]
        with pytest.raises(openai.RateLimitError) as caught:  # noqa: PT012 - one of these, whichever
            for _ in range(20):
                hasty.chat.completions.create(model=MODEL, messages=messages)  # type: ignore[arg-type]
        assert caught.value.code == "rate_limit_exceeded"
        assert caught.value.request_id
        wait_s = int(caught.value.response.headers["retry-after-ms"]) / 1000
        patient = openai.OpenAI(base_url=f"{running.url}/v1", api_key=FREE, max_retries=3)
        started = time.monotonic()
        assert patient.chat.completions.create(model=MODEL, messages=messages).choices  # type: ignore[arg-type]
        assert time.monotonic() - started >= wait_s * 0.5
        refused = [r for r in running.records() if r["status"] == 429]
        assert len(refused) <= 3, "a client that waits as told is let in"


def test_two_keys_of_one_user_share_their_counters(backend: FakeVllm, tmp_path: Path) -> None:
    config = short_form(backend)
    config["api_keys"]["sk-second-key-of-fred"] = {"user_id": "fred", "tier": "free"}  # type: ignore[index]
    with running_gateway(tmp_path, config) as running, running.client() as client:
        for key in (FREE, "sk-second-key-of-fred"):
            answer = client.post(CHAT, json=BODY, headers={"x-api-key": key})
        assert answer.headers["x-ratelimit-remaining-minute"] == "8"


def test_listing_models_and_health_cost_nothing(fresh: RunningGateway) -> None:
    headers = {"authorization": f"Bearer {FREE}"}
    for path in ("/v1/models", "/health", "/metrics"):
        assert httpx.get(fresh.url + path, headers=headers).status_code == 200
    answer = httpx.post(fresh.url + CHAT, json=BODY, headers=headers)
    assert answer.headers["x-ratelimit-remaining-minute"] == "9"
