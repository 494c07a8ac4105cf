"""One gateway at the edge, for everything that is thrown at it: small bodies only, no limits but these."""

from collections.abc import Iterator

import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.running_gateway import RunningGateway, running_gateway
from tests.integration.conftest import ELSEWHERE, FREE, LIMITED, MODEL, PREMIUM, STANDARD


@pytest.fixture(scope="package")
def backend() -> Iterator[FakeVllm]:
    with FakeVllm((MODEL, "tiny")) as fake:
        yield fake


@pytest.fixture(scope="package")
def gateway(backend: FakeVllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    config = {
        "vllm": {"base_url": f"{backend.url}/v1", "default_model": MODEL},
        "api_keys": {
            PREMIUM: {"user_id": "dev-team", "tier": "unlimited"},
            LIMITED: {"user_id": "lim", "tier": "unlimited", "models": ["tiny*"]},
            STANDARD: {"user_id": "sam", "tier": "counted"},
            FREE: {"user_id": "fred", "tier": "once"},
            ELSEWHERE: {"user_id": "ella", "tier": "unlimited", "allowed_ips": ["10.1.2.0/24"]},
        },
        "rate_limits": {
            "unlimited": {},
            "counted": {"requests_per_minute": 1000, "requests_per_day": 100_000, "tokens_per_day": 1_000_000},
            "once": {"requests_per_hour": 1},
        },
        "server": {"max_body_mb": 1},
    }
    with running_gateway(tmp_path_factory.mktemp("edge"), config) as running:
        yield running
