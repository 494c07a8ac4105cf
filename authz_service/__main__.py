"""`python -m authz_service`: the process that answers ext_authz."""

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from authz_service import store as key_store
from authz_service.access import Rules
from authz_service.cutting import cutting
from authz_service.gate import Gate
from authz_service.guesses import Guesses
from authz_service.keyring import Keyring
from authz_service.metrics import Metrics, StoreMetrics
from authz_service.restrictions import recalled, remembering
from authz_service.service import Authz
from gatehouse.config import follow
from gatehouse.keys.peppers import hasher
from gatehouse.keys.stores import store_of
from gatehouse.metrics import Reloads
from gatehouse.rpc import Service
from gatehouse.server import serve
from gatehouse.worker import GRACE_S, Worker, run

FIRST_TRY_S = 3.0
"""How long a worker waits for a key store that is slow to tell its keys. One that is down is not waited for."""


async def main(worker: Worker) -> None:
    """One worker, until it is told to stop."""
    config = worker.config
    stored = config.key_store.type != "none"
    keyring = Keyring(worker.files.records, config.key_store.max_stale_s if stored else None)
    last_used: dict[str, float] | None = {} if stored else None
    gate = Gate(config.keys.prefix, hasher(config.keys), Guesses(config.keys.failures_per_minute), last_used)
    async with AsyncExitStack() as stack:
        tokens = None
        if config.jwt:
            from authz_service.sso.principals import following  # cryptography and an HTTP client: 20 MB

            tokens = await stack.enter_async_context(following(config))
        authz = Authz(keyring, Rules(config), Metrics.make(), tokens=tokens, gate=gate)
        await stack.enter_async_context(_following(worker, keyring, authz, last_used))
        gc.freeze()  # keys stay: the collector need not walk through 100,000 of them again and again
        await serve(Service(authz.methods), worker.run_dir.socket("authz", worker.index), worker.stop, GRACE_S)


@asynccontextmanager
async def _following(
    worker: Worker, keyring: Keyring, authz: Authz, last_used: dict[str, float] | None
) -> AsyncIterator[None]:
    """Files and store are followed while the block runs."""
    files, store = worker.files, store_of(worker.config)

    def adopt() -> None:
        keyring.adopt(files.records)
        authz.adopt(keyring, Rules(files.config))

    metrics = StoreMetrics()
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(follow.follow(files, adopt, Reloads()))]
        if store is not None and last_used is not None:
            tried, kept_at = asyncio.Event(), worker.run_dir.restrictions(worker.index)
            keyring.recall(recalled(kept_at))
            after_change = (remembering(keyring, kept_at), cutting(keyring, worker.run_dir.cut))
            running.append(tasks.create_task(key_store.follow(store, keyring, metrics, tried, after_change)))
            running.append(tasks.create_task(key_store.show_age(keyring, metrics)))
            running.append(tasks.create_task(key_store.report_use(store, last_used)))
            with suppress(TimeoutError):
                await asyncio.wait_for(tried.wait(), FIRST_TRY_S)
        yield
        for task in running:
            task.cancel()
    if store is not None:
        await store.close()


if __name__ == "__main__":
    sys.exit(run("authz", main))
