"""`python -m ratelimit_service`: the process that answers Envoy's rate limit calls.

With `-c gatehouse.yaml` it is a sidecar of the gateway, with `--runtime-root DIR` a drop-in for envoyproxy/ratelimit.
"""

import logging
import os
import sys
from collections.abc import Mapping, Sequence

from gatehouse.redis_client import Client, connect
from gatehouse.rpc import Service
from gatehouse.run_dir import workers
from gatehouse.server import serve
from gatehouse.worker import GRACE_S, Worker, run
from ratelimit_service import redis_checks
from ratelimit_service.dropin import serve as dropin
from ratelimit_service.fallback import fallback
from ratelimit_service.key_rules import KeyRules
from ratelimit_service.metrics import Metrics
from ratelimit_service.plan import Plans
from ratelimit_service.resilient import Resilient
from ratelimit_service.service import RateLimits
from ratelimit_service.store import Ask, Store, StoreUnavailable
from ratelimit_service.store_memory import MemoryStore
from ratelimit_service.store_redis import RedisStore

log = logging.getLogger(__name__)

_PATIENCE_S = 1.0
"""Of the Redis client itself. What a request waits for is the business of `Resilient`, and much less."""


_NOTHING = Ask("start", ())


async def main(worker: Worker) -> None:
    """One worker, until it is told to stop."""
    metrics = Metrics()
    store = await _store(worker, metrics)
    plans = Plans(worker.config, KeyRules(metrics.on_unreadable_limits))
    limits = RateLimits(plans, store, metrics)
    try:
        await serve(Service(limits.methods), worker.run_dir.socket("ratelimit", worker.index), worker.stop, GRACE_S)
    finally:
        await store.close()


async def _store(worker: Worker, metrics: Metrics) -> Store:
    """Redis, shared by every worker and gateway, or the memory of this one process."""
    settings = worker.config.redis
    if settings.url is None:
        return MemoryStore()
    client = connect(settings.url, timeout_s=_PATIENCE_S)
    store = RedisStore(client)
    await _look_over(client, store)
    sharers = workers(worker.config, "ratelimit") * settings.gateways
    local, budget_s = fallback(settings.on_failure, sharers), settings.timeout_ms / 1000
    return Resilient(store, local, metrics, budget_s=budget_s, answers=lambda: store.answers)


async def _look_over(client: Client, store: Store) -> None:
    """Say what is wrong with Redis, and have it know the script before the first request comes."""
    try:
        await store.decide(_NOTHING)
        for finding in await redis_checks.check(client):
            level = {"error": logging.ERROR, "warning": logging.WARNING, "advice": logging.INFO}[finding.level]
            log.log(level, "%s; %s", finding.message, finding.fix)
    except StoreUnavailable as error:
        log.error("Redis does not answer yet: %s", error)


def drops_in(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether this is to be envoyproxy/ratelimit: its files are named, by our options or its own environment."""
    named = any(argument.split("=")[0] in ("--runtime-root", "--check") for argument in arguments)
    return named or (not arguments and "RUNTIME_ROOT" in environment)


if __name__ == "__main__":
    if drops_in(sys.argv[1:], os.environ):
        sys.exit(dropin.run(sys.argv[1:]))
    sys.exit(run("ratelimit", main))
