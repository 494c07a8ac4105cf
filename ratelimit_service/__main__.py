"""`python -m ratelimit_service`: the process that answers Envoy's rate limit calls."""

import sys

from gatehouse.config.model import Redis
from gatehouse.server import Service, serve
from gatehouse.worker import GRACE_S, Worker, run
from ratelimit_service.metrics import Metrics
from ratelimit_service.plan import Plans
from ratelimit_service.redis_client import connect
from ratelimit_service.service import RateLimits
from ratelimit_service.store import Store
from ratelimit_service.store_memory import MemoryStore
from ratelimit_service.store_redis import RedisStore


async def main(worker: Worker) -> None:
    """One worker, until it is told to stop."""
    store = _store(worker.config.redis)
    limits = RateLimits(Plans(worker.config), store, Metrics())
    try:
        await serve(Service(limits.methods), worker.run_dir.socket("ratelimit", worker.index), worker.stop, GRACE_S)
    finally:
        await store.close()


def _store(settings: Redis) -> Store:
    """Redis, shared by every worker and gateway, or the memory of this one process."""
    if settings.url is None:
        return MemoryStore()
    return RedisStore(connect(settings.url))


if __name__ == "__main__":
    sys.exit(run("ratelimit", main))
