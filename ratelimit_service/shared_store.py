"""The store that all workers and gateways share: Redis, with a fallback while it fails."""

import asyncio
import logging
from collections.abc import Sequence

from gatehouse.config.model import Config
from gatehouse.config.run_dir import first_rank, workers
from gatehouse.redis_client.client import Client, connect
from ratelimit_service.metrics import Metrics
from ratelimit_service.store.fallback import Fallback, fallback
from ratelimit_service.store.port import Ask, Charge, Store, StoreUnavailable
from ratelimit_service.store.redis import checks
from ratelimit_service.store.redis.marker import RedisMarker
from ratelimit_service.store.redis.store import RedisStore
from ratelimit_service.store.redis.watch import RedisWatch
from ratelimit_service.store.resilient import Remembered, Resilient
from ratelimit_service.store.restoring import raise_to
from ratelimit_service.store.seen import Seen

log = logging.getLogger(__name__)

_CONNECTED_IN_S = 1.0
_ANSWERED_IN_S = 3.0
"""The first answer takes several round trips: half a second each is slow, but no reason to start without Redis."""
_RESTORED_IN_S = 8.0
_SILENT_S = 10.0
"""How long a connection may be silent before it is replaced. Requests wait much less (see `Resilient`), but only this
connection will tell what Redis did with the commands sent on it."""

_NOTHING = Ask("start", ())
_LEVELS = {"error": logging.ERROR, "warning": logging.WARNING, "advice": logging.INFO}


async def shared_store(url: str, config: Config, metrics: Metrics, remembered: Remembered) -> Store:
    """The store in the Redis at `url`. If Redis does not answer yet, it is probed in the background; if it is empty,
    `remembered` is restored to it."""
    settings = config.redis
    client = connect(url, timeout_s=_SILENT_S, connect_timeout_s=_CONNECTED_IN_S)
    store, marker, seen = RedisStore(client), RedisMarker(client), Seen()
    await _prepare(client, store, marker, remembered, metrics)
    called = first_rank(workers(config, "ratelimit"))
    local = fallback(settings.on_failure, sharers=called * settings.gateways, seen=seen)
    return Shared(store, local, metrics, client, settings.timeout_ms / 1000, marker, seen, remembered)


class Shared(Resilient):
    """`Resilient` over Redis, with a `RedisWatch`."""

    def __init__(
        self,
        store: RedisStore,
        local: Fallback | None,
        metrics: Metrics,
        client: Client,
        timeout_s: float,
        marker: RedisMarker,
        seen: Seen,
        remembered: Remembered,
    ) -> None:
        super().__init__(
            store,
            local,
            metrics,
            timeout_s=timeout_s,
            answers=lambda: store.answers,
            seen=seen,
            marker=marker,
            remembered=remembered,
        )
        self._watch = asyncio.create_task(RedisWatch(client, marker, self.forgot, metrics.on_clock_step).run())

    async def close(self) -> None:
        self._watch.cancel()
        await super().close()


async def _prepare(
    client: Client, store: RedisStore, marker: RedisMarker, remembered: Remembered, metrics: Metrics
) -> None:
    """Load the script, restore usage, and log what is wrong with Redis, before the first request comes."""
    try:
        async with asyncio.timeout(_ANSWERED_IN_S):
            await store.decide(_NOTHING)
        async with asyncio.timeout(_RESTORED_IN_S), marker.restoring():
            if await marker.missing():
                await _restore(store, await remembered(), metrics)
        for finding in await checks.check(client):
            log.log(_LEVELS[finding.level], "%s; %s", finding.message, finding.fix)
    except (StoreUnavailable, TimeoutError) as error:
        log.error("Redis does not answer yet: %s", error)


async def _restore(store: RedisStore, used: Sequence[Charge], metrics: Metrics) -> None:
    await raise_to(store, used)
    if used:
        metrics.on_restored(len(used))
        log.warning("Redis was empty: restored %d counts of limits of a day and more from the tally", len(used))
    else:
        log.warning("Redis is empty and no usage is known: every limit and budget starts at zero")
