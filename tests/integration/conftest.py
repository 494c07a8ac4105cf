"""A gateway and a fake vLLM behind it, shared by the tests of a module."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.running_gateway import RunningGateway, running_gateway

MODEL = "meta-llama/Llama-2-7b-chat-hf"
PREMIUM, STANDARD, FREE, EXPIRED, LIMITED, ELSEWHERE = (
    "sk-internal-dev-key-001",
    "sk-test-standard-002",
    "sk-test-free-003",
    "sk-test-expired-004",
    "sk-test-one-model-005",
    "sk-test-elsewhere-006",
)


def keys() -> dict[str, object]:
    """One key of each kind that tests need."""
    return {
        PREMIUM: {"user_id": "dev-team", "tier": "premium", "name": "dev"},
        STANDARD: {"user_id": "sam", "tier": "standard"},
        FREE: {"user_id": "fred", "tier": "free"},
        EXPIRED: {"user_id": "eve", "tier": "free", "expires_at": "2020-01-01"},
        LIMITED: {"user_id": "lim", "tier": "unlimited", "models": ["tiny*"]},
        ELSEWHERE: {"user_id": "ella", "tier": "unlimited", "allowed_ips": ["10.1.2.0/24"]},
    }


def short_form(backend: FakeVllm) -> dict[str, object]:
    """The short form of the configuration, with a tier nobody exhausts beside the usual three."""
    return {
        "vllm": {"base_url": f"{backend.url}/v1", "default_model": MODEL},
        "api_keys": keys(),
        "rate_limits": {
            "premium": {"requests_per_minute": 100, "requests_per_hour": 1000},
            "standard": {"requests_per_minute": 30, "requests_per_hour": 300},
            "free": {"requests_per_minute": 10, "requests_per_hour": 100},
            "unlimited": {},
        },
    }


@pytest.fixture(scope="module")
def backend() -> Iterator[FakeVllm]:
    with FakeVllm((MODEL,)) as fake:
        yield fake


@pytest.fixture(scope="module")
def gateway(backend: FakeVllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    directory: Path = tmp_path_factory.mktemp("gateway")
    with running_gateway(directory, short_form(backend)) as running:
        yield running
