"""The store that all workers and gateways share: Redis, with a life after its failure."""

import logging

from gatehouse.config.model import Config
from gatehouse.redis_client import Client, connect
from gatehouse.run_dir import first_rank, workers
from ratelimit_service import redis_checks
from ratelimit_service.fallback import fallback
from ratelimit_service.metrics import Metrics
from ratelimit_service.resilient import Resilient
from ratelimit_service.store import Ask, Store, StoreUnavailable
from ratelimit_service.store_redis import RedisStore

log = logging.getLogger(__name__)

_PATIENCE_S = 1.0
"""Of the Redis client itself. What a request waits for is the business of `Resilient`, and much less."""

_NOTHING = Ask("start", ())
_LEVELS = {"error": logging.ERROR, "warning": logging.WARNING, "advice": logging.INFO}


async def shared_store(url: str, config: Config, metrics: Metrics) -> Store:
    """The store in the Redis at `url`. One that does not answer yet is waited for in the background."""
    settings = config.redis
    client = connect(url, timeout_s=_PATIENCE_S)
    store = RedisStore(client)
    await _look_over(client, store)
    called = first_rank(workers(config, "ratelimit"))
    local = fallback(settings.on_failure, sharers=called * settings.gateways)
    budget_s = settings.timeout_ms / 1000
    return Resilient(store, local, metrics, budget_s=budget_s, answers=lambda: store.answers)


async def _look_over(client: Client, store: Store) -> None:
    """Say what is wrong with Redis, and have it know the script before the first request comes."""
    try:
        await store.decide(_NOTHING)
        for finding in await redis_checks.check(client):
            log.log(_LEVELS[finding.level], "%s; %s", finding.message, finding.fix)
    except StoreUnavailable as error:
        log.error("Redis does not answer yet: %s", error)
