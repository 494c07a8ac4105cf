"""Real vLLM behind a real gateway, with the real client: what it counted is what the records and metrics say."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from testkit.running_gateway import RunningGateway, running_gateway
from tests.vllm.conftest import Vllm

pytestmark = pytest.mark.vllm

KEY = "sk-vllm-test-key-001"
MESSAGES: Any = [{"role": "user", "content": "the quick brown fox"}]


@pytest.fixture(scope="module")
def gateway(vllm: Vllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    config = {
        "vllm": {"base_url": f"{vllm.url}/v1", "default_model": vllm.model},
        "api_keys": {KEY: {"user_id": "tester", "tier": "premium"}},
        "rate_limits": {"premium": {"requests_per_minute": 1000}},
    }
    with running_gateway(tmp_path_factory.mktemp("vllm-gateway"), config) as running:
        yield running


@pytest.fixture(scope="module")
def sdk(gateway: RunningGateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0)


def test_chat_unary(sdk: openai.OpenAI, gateway: RunningGateway) -> None:
    raw = sdk.chat.completions.with_raw_response.create(model="tiny", messages=MESSAGES, max_tokens=12)
    usage = raw.parse().usage
    assert usage is not None
    record = gateway.record(raw.headers["x-request-id"])
    assert (record["prompt_tokens"], record["completion_tokens"]) == (usage.prompt_tokens, usage.completion_tokens)


@pytest.mark.parametrize(
    "options", [None, {"include_usage": True}, {"include_usage": True, "continuous_usage_stats": True}]
)
def test_chat_stream(sdk: openai.OpenAI, gateway: RunningGateway, options: Any) -> None:
    extra = {"stream_options": options} if options else {}
    raw = sdk.chat.completions.with_raw_response.create(
        model="tiny", messages=MESSAGES, stream=True, max_tokens=9, extra_body={"ignore_eos": True}, **extra
    )
    chunks = list(raw.parse())
    with_usage = [chunk for chunk in chunks if chunk.usage]
    finals = [chunk for chunk in chunks if not chunk.choices]
    assert len(finals) == (1 if options else 0)
    assert bool([c for c in with_usage if c.choices]) == bool(options and "continuous_usage_stats" in options)
    record = gateway.record(raw.headers["x-request-id"])
    assert (record["stream"], record["completion_tokens"]) == (True, 9)
    if finals:
        assert finals[0].usage
        assert record["prompt_tokens"] == finals[0].usage.prompt_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_completions(sdk: openai.OpenAI, gateway: RunningGateway, stream: bool) -> None:
    raw = sdk.completions.with_raw_response.create(
        model="tiny", prompt="a b c", max_tokens=7, stream=stream, extra_body={"ignore_eos": True}
    )
    answer: Any = raw.parse()
    text = "".join(c.choices[0].text for c in answer) if stream else answer.choices[0].text
    assert isinstance(text, str)
    assert gateway.record(raw.headers["x-request-id"])["completion_tokens"] == 7


@pytest.mark.parametrize("stream", [False, True])
def test_responses(sdk: openai.OpenAI, gateway: RunningGateway, stream: bool) -> None:
    raw = sdk.responses.with_raw_response.create(model="tiny", input="a b c", max_output_tokens=8, stream=stream)
    answer: Any = raw.parse()
    usage = list(answer)[-1].response.usage if stream else answer.usage
    record = gateway.record(raw.headers["x-request-id"])
    assert (record["prompt_tokens"], record["completion_tokens"]) == (usage.input_tokens, usage.output_tokens)


def test_models_are_vllms_own(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["tiny"]
    assert sdk.models.list().data[0].owned_by == "vllm"


def test_an_unknown_model_is_vllms_own_404(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        sdk.chat.completions.create(model="nope", messages=MESSAGES)


def test_the_sums_are_vllms_own_counts_to_the_token(sdk: openai.OpenAI, gateway: RunningGateway, vllm: Vllm) -> None:
    before = vllm.metrics()
    ids = []
    for index in range(20):
        stream = bool(index % 2)
        raw = sdk.chat.completions.with_raw_response.create(
            model="tiny", messages=MESSAGES, max_tokens=index + 1, stream=stream
        )
        answer: Any = raw.parse()
        if stream:
            list(answer)
        ids.append(raw.headers["x-request-id"])
    after = vllm.metrics()
    records = [gateway.record(request_id) for request_id in ids]
    for name, field in (("prompt", "prompt_tokens"), ("generation", "completion_tokens")):
        counted = after[f"vllm:{name}_tokens_total"] - before[f"vllm:{name}_tokens_total"]
        assert sum(record[field] for record in records) == counted > 0


def test_the_token_metric_is_the_sum_of_the_records(sdk: openai.OpenAI, gateway: RunningGateway) -> None:
    raw = sdk.chat.completions.with_raw_response.create(model="tiny", messages=MESSAGES, max_tokens=5)
    gateway.record(raw.headers["x-request-id"])  # and with it, all that were before
    records = [record for record in gateway.records() if record["status"] == 200 and record["model"] == "tiny"]
    metrics = gateway.metrics()
    for kind, field in (("prompt", "prompt_tokens"), ("completion", "completion_tokens")):
        label = f'model="tiny",type="{kind}",user="tester"'
        line = next(line for line in metrics.splitlines() if label in line and "api_tokens_total" in line)
        assert float(line.rsplit(" ", 1)[1]) == sum(record[field] or 0 for record in records)
