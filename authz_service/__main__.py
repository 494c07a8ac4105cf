"""`python -m authz_service`: the process that answers ext_authz."""

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from authz_service import store as key_store
from authz_service.access import Rules
from authz_service.cutting import cutting
from authz_service.gate import Gate
from authz_service.guesses import Guesses
from authz_service.keyring import Keyring
from authz_service.metrics import Metrics, StoreMetrics
from authz_service.restrictions import recalled, remembering
from authz_service.service import Authz, Tokens
from gatehouse.config.model import Config
from gatehouse.keys.peppers import hasher
from gatehouse.keys.stores import store_of
from gatehouse.process.worker import GRACE_S, Worker, run
from gatehouse.rpc.server import serve
from gatehouse.rpc.service import Service

if TYPE_CHECKING:
    from authz_service.sso.following import Issuers

FIRST_TRY_S = 3.0
"""How long a worker waits at its start for the keys of a slow key store. It does not wait for one that is down."""


async def main(worker: Worker) -> None:
    """One worker, until it is asked to stop."""
    config = worker.config
    stored = config.key_store.type != "none"
    keyring = Keyring(worker.files.records, config.key_store.max_stale_s if stored else None)
    last_used: dict[str, float] | None = {} if stored else None
    gate = Gate(config.keys.prefix, hasher(config.keys), Guesses(config.keys.failures_per_minute), last_used)
    async with AsyncExitStack() as stack:
        tokens = _TokensOf(stack)
        authz = Authz(keyring, Rules(config), Metrics.make(), tokens=tokens(config), gate=gate)

        def adopt(changed: Config) -> None:
            keyring.adopt(worker.files.records)
            gate.guesses.per_minute = changed.keys.failures_per_minute
            authz.adopt(keyring, Rules(changed), tokens(changed), replace(gate, prefix=changed.keys.prefix))

        await stack.enter_async_context(worker.following(adopt))
        await stack.enter_async_context(_storing(worker, keyring, last_used))
        gc.freeze()  # keys stay: the garbage collector need not traverse 100,000 of them again and again
        await serve(Service(authz.methods), worker.run_dir.socket("authz", worker.index), worker.stop, GRACE_S)


class _TokensOf:
    """Resolves the tokens of a configuration. Without issuers, none of this is imported."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._issuers: Issuers | None = None
        self._made: tuple[object, Tokens | None] = ((), None)

    def __call__(self, config: Config) -> Tokens | None:
        depends_on = config.jwt, set(config.rate_limits), set(config.teams)
        if config.jwt and self._issuers is None:
            from authz_service.sso.following import Issuers  # cryptography and an HTTP client: 20 MB

            self._issuers = Issuers()
            self._stack.push_async_callback(self._issuers.close)
        if self._issuers and self._made[0] != depends_on:
            self._made = depends_on, self._issuers.principals(config)
        return self._made[1] if config.jwt else None


@asynccontextmanager
async def _storing(worker: Worker, keyring: Keyring, last_used: dict[str, float] | None) -> AsyncIterator[None]:
    """Follows the key store, if there is one, while the block runs."""
    store, metrics = store_of(worker.config), StoreMetrics()  # without a store, too: its metrics are then 0
    if store is None or last_used is None:
        yield
        return
    tried, kept_at = asyncio.Event(), worker.run_dir.restrictions(worker.index)
    keyring.recall(recalled(kept_at))
    after_change = (remembering(keyring, kept_at), cutting(keyring, worker.run_dir.cut))
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(key_store.follow(store, keyring, metrics, tried, after_change)),
            tasks.create_task(key_store.show_age(keyring, metrics)),
            tasks.create_task(key_store.report_use(store, last_used)),
        ]
        with suppress(TimeoutError):
            await asyncio.wait_for(tried.wait(), FIRST_TRY_S)
        yield
        for task in running:
            task.cancel()
    await store.close()


if __name__ == "__main__":
    sys.exit(run("authz", main))
