"""How long a worker could not run: the machine has no CPU for it, or something in it holds up everything else."""

import asyncio
from collections.abc import Callable

from prometheus_client import REGISTRY, CollectorRegistry, Counter

PERIOD_S = 1.0
TOLERATED_S = 0.05
"""Later than this, a timer is late for a reason."""


def counted(worker: str, registry: CollectorRegistry = REGISTRY) -> Callable[[float], None]:
    """Counts seconds in `api_worker_starved_seconds_total{worker}`."""
    text = "Time in which a worker was due to run and did not, seen once a second."
    return Counter("api_worker_starved_seconds_total", text, ["worker"], registry=registry).labels(worker).inc


async def watch(count: Callable[[float], None]) -> None:
    """Count how late this event loop is, until cancelled."""
    now = asyncio.get_running_loop().time
    while True:
        due = now() + PERIOD_S
        await asyncio.sleep(PERIOD_S)
        late_s = now() - due
        if late_s > TOLERATED_S:
            count(late_s)
