"""A loop that is held up says for how long."""

import asyncio
import time

import pytest
from prometheus_client import CollectorRegistry

from gatehouse.process import starvation

pytestmark = pytest.mark.asyncio


async def test_what_holds_up_the_loop_is_counted_and_a_calm_loop_counts_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(starvation, "PERIOD_S", 0.05)
    monkeypatch.setattr(starvation, "TOLERATED_S", 0.5)
    registry = CollectorRegistry()
    watching = asyncio.create_task(starvation.watch(starvation.counted("authz-0", registry)))

    def counted() -> float:
        return registry.get_sample_value("api_worker_starved_seconds_total", {"worker": "authz-0"}) or 0.0

    await asyncio.sleep(0.2)
    assert counted() == 0
    time.sleep(1)  # noqa: ASYNC251 - that is what is looked for
    await asyncio.sleep(0.2)
    watching.cancel()
    assert 0.9 < counted() < 5
