"""What a request asks for, from its body to the limiter and the log; and answers that nobody counted."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2 as httpx
import openai
import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.fakes.script import Script
from testkit.redis_server import redis_server
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until

CHAT = "/v1/chat/completions"
MODEL = "m"
CHATTING = {"model": MODEL, "messages": [{"role": "user", "content": "a b c"}], "ignore_eos": True}
LIMITS: dict[str, dict[str, Any]] = {
    "free": {"tokens_per_day": 20_000},
    "choices": {"tokens_per_minute": 1000},
    "writer": {"output_tokens_per_day": 60},
    "searcher": {"tokens_per_minute": 10_000},
    "uncounted": {"tokens_per_day": 50_000},
    "learned": {"tokens_per_hour": 1_000_000},
    "broken": {"tokens_per_day": 50_000},
    "dialects": {"tokens_per_minute": 20_000},
    "prompts": {"tokens_per_minute": 1000},
    "pictures": {"tokens_per_minute": 100_000},
    "nothing": {"output_tokens_per_day": 5},
}


def key(tier: str) -> str:
    return f"sk-asks-{tier}"


@pytest.fixture(scope="module")
def gateway(backend: FakeVllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with redis_server() as redis:
        config: dict[str, Any] = {
            "models": {MODEL: {"backends": [{"url": f"{backend.url}/v1"}]}},
            "api_keys": {key(tier): {"user_id": f"user-{tier}", "tier": tier} for tier in LIMITS},
            "rate_limits": LIMITS,
            "redis": {"url": redis.url},
            "server": {"workers": 4},  # two of them decide
        }
        with running_gateway(tmp_path_factory.mktemp("asks"), config) as running:
            yield running


@pytest.fixture(autouse=True)
def script(backend: FakeVllm) -> Iterator[None]:
    yield
    backend.script = Script()


def post(gateway: RunningGateway, tier: str, path: str = CHAT, **body: Any) -> httpx.Response:
    usual = CHATTING if path == CHAT else {"model": MODEL}
    headers = {"authorization": f"Bearer {key(tier)}"}
    return httpx.post(gateway.url + path, json={**usual, **body}, headers=headers, timeout=30)


def used(gateway: RunningGateway, tier: str) -> int:
    """Tokens, of the only limit of a tier."""
    usage = httpx.get(f"{gateway.url}/v1/usage", headers={"authorization": f"Bearer {key(tier)}"}).json()
    return int(usage["limits"][0]["used"])


def test_what_can_never_pass_says_so_and_no_client_tries_again(gateway: RunningGateway) -> None:
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key("free"), max_retries=2)
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}], max_tokens=50_000)
    answer = refused.value.response
    assert "up to 50000 tokens; at most 20000 tokens per day are allowed for tier 'free'" in answer.text
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    record = gateway.record(answer.headers["x-request-id"])
    assert (record["limited_by"], record["error_code"]) == ("tokens_per_day", "rate_limit_exceeded")
    assert (record["max_tokens"], record["n"], record["images"]) == (50_000, 1, 0)
    time.sleep(0.5)
    assert len([each for each in gateway.records() if each["user_id"] == "user-free"]) == 1
    assert used(gateway, "free") == 0


def test_of_six_calls_with_ten_choices_each_one_passes(gateway: RunningGateway, backend: FakeVllm) -> None:
    counts = b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":900}}'
    headers = {"content-type": "application/json"}
    backend.script = Script(headers_after_s=0.7, status=200, headers=headers, body=counts)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: post(gateway, "choices", n=10, max_tokens=90), range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] + [429] * 5
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert "Maximum 1000 tokens per minute" in refused.text


def chunked(gateway: RunningGateway, tier: str, times: int, **body: Any) -> list[int]:
    """The same without a Content-Length, so many at once; their statuses, in order of size."""
    text = json.dumps({**CHATTING, **body}).encode()
    headers = {"authorization": f"Bearer {key(tier)}", "content-type": "application/json"}

    def ask(client: httpx.Client) -> int:
        pieces = (text[at : at + 1000] for at in range(0, len(text), 1000))
        return client.post(CHAT, content=pieces, headers=headers).status_code

    with gateway.client() as client, ThreadPoolExecutor(times) as pool:
        return sorted(pool.map(lambda _: ask(client), range(times)))


def held(backend: FakeVllm) -> None:
    """Answers that come late, so that all requests run at once."""
    counts = b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":5}}'
    headers = {"content-type": "application/json"}
    backend.script = Script(headers_after_s=2.0, status=200, headers=headers, body=counts)


def test_what_another_dialect_calls_it_lowers_no_guess(gateway: RunningGateway, backend: FakeVllm) -> None:
    held(backend)
    statuses = chunked(gateway, "dialects", 20, max_completion_tokens=2000, max_output_tokens=1)
    assert statuses == [200] * 9 + [429] * 11


def test_a_long_prompt_counts_without_a_content_length(gateway: RunningGateway, backend: FakeVllm) -> None:
    held(backend)
    words = [{"role": "user", "content": "tide " * 3200}]
    assert chunked(gateway, "prompts", 6, messages=words, max_tokens=5) == [200] + [429] * 5


def test_an_image_counts_by_what_it_is(gateway: RunningGateway) -> None:
    assert post(gateway, "pictures", max_tokens=10).status_code == 200
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 600_000}}
    message = [{"role": "user", "content": [image, {"type": "text", "text": "what is it?"}]}]
    answer = post(gateway, "pictures", messages=message, max_tokens=10)
    assert answer.status_code == 200, answer.text
    assert gateway.record(answer.headers["x-request-id"])["images"] == 1


def test_no_output_at_all_is_no_way_past_a_limit_of_output(gateway: RunningGateway, backend: FakeVllm) -> None:
    counts = b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":50}}'
    backend.script = Script(status=200, headers={"content-type": "application/json"}, body=counts)
    assert post(gateway, "nothing", max_tokens=0).status_code == 200
    until(lambda: used(gateway, "nothing") >= 5, 5, "the charge")
    assert post(gateway, "nothing", max_tokens=0).status_code == 429


def test_what_generates_nothing_passes_when_the_output_is_spent(gateway: RunningGateway) -> None:
    assert post(gateway, "writer", max_tokens=60).status_code == 200
    until(lambda: post(gateway, "writer", max_tokens=1).status_code == 429, 3, "a spent limit")
    assert post(gateway, "writer", "/v1/embeddings", input="word").status_code == 200
    assert post(gateway, "writer", "/tokenize", prompt="word").status_code == 200


def test_forty_small_embeddings_pass(gateway: RunningGateway) -> None:
    statuses = [post(gateway, "searcher", "/v1/embeddings", input="word").status_code for _ in range(40)]
    assert statuses == [200] * 40


def test_an_answer_without_counts_is_counted_and_charged_by_its_size(
    gateway: RunningGateway, backend: FakeVllm
) -> None:
    body = b'{"choices":[{"message":{"content":"' + b"x" * 40_000 + b'"}}]}'
    backend.script = Script(status=200, headers={"content-type": "application/json"}, body=body)
    answer = post(gateway, "uncounted", max_tokens=10)
    assert answer.status_code == 200
    record = gateway.record(answer.headers["x-request-id"])
    assert (record["prompt_tokens"], record["completion_tokens"], record["error_code"]) == (None, None, None)
    until(lambda: used(gateway, "uncounted") >= len(body) // 4, 5, "the charge of an answer that nobody counted")
    line = f'api_uncounted_answers_total{{endpoint="{CHAT}",model="{MODEL}"}} 1.0'
    until(lambda: line in gateway.metrics(), 5, "the count of answers that nobody counted")


def test_an_error_inside_a_stream_is_a_failure(gateway: RunningGateway, backend: FakeVllm) -> None:
    body = b'data: {"error":{"message":"out of memory","code":500}}\n\ndata: [DONE]\n\n'
    backend.script = Script(status=200, headers={"content-type": "text/event-stream"}, body=body)
    answer = post(gateway, "broken", max_tokens=400, stream=True)
    record = gateway.record(answer.headers["x-request-id"])
    assert (record["status"], record["error_code"]) == (200, "upstream_error")
    until(lambda: used(gateway, "broken") == 0, 5, "the return of what was reserved")
    line = f'api_failed_answers_total{{endpoint="{CHAT}",model="{MODEL}"}} 1.0'
    until(lambda: line in gateway.metrics(), 5, "the count of failed answers")


def test_every_worker_that_decides_learns_how_long_answers_are(gateway: RunningGateway) -> None:
    spent = 0

    def guessed() -> int:
        """What the request reserved, by its own answer."""
        nonlocal spent
        time.sleep(0.1)
        answer = post(gateway, "learned", ignore_eos=False)
        left = int(answer.headers["x-ratelimit-remaining-tokens"])
        guess = LIMITS["learned"]["tokens_per_hour"] - spent - left
        spent += answer.json()["usage"]["total_tokens"]
        return int(guess)

    assert guessed() >= 512, "nothing is known yet"
    until(lambda: all(guessed() < 300 for _ in range(10)), 20, "knowledge in every worker")
