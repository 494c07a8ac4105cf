"""Follows the key store: its changes go to the keyring, and the times at which keys were last used go back."""

import asyncio
import logging
from collections.abc import Callable, MutableMapping, Sequence

from authz_service.keyring import Keyring
from authz_service.metrics import StoreMetrics
from gatehouse.keys.store import KeyStore, KeyStoreUnavailable

log = logging.getLogger(__name__)

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 1.0
"""Between two attempts to reach the store, so that its return is noticed within two seconds."""

REPORT_EVERY_S = 60.0


async def follow(
    store: KeyStore,
    keyring: Keyring,
    metrics: StoreMetrics,
    tried: asyncio.Event,
    after_change: Sequence[Callable[[], None]] = (),
) -> None:
    """Apply the store's changes to `keyring` until cancelled.

    `tried` is set after the first answer or the first failure; `after_change` is called after every change.

    While the store does not answer, the keyring keeps its last known keys and tracks how old they are.
    """
    wait_s = FIRST_WAIT_S
    while True:
        try:
            async for change in store.changes():
                if wait_s != FIRST_WAIT_S:
                    log.warning("the key store answers again")
                wait_s = FIRST_WAIT_S
                keyring.apply(change)
                for call in after_change:
                    call()
                tried.set()
            reason: object = "it ended its change stream"
        except KeyStoreUnavailable as error:
            reason = error
        except Exception as error:  # whatever it is, checks and attempts to reach the store must go on
            reason = f"{type(error).__name__}; this is a bug in the gateway"
        keyring.lose_touch()
        metrics.errors.inc()
        tried.set()
        if wait_s == FIRST_WAIT_S:
            log.error("the key store does not answer; using the last known keys: %s", reason)
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


async def show_age(keyring: Keyring, metrics: StoreMetrics) -> None:
    """Update the metric of the store's age until cancelled. A store that never answered is as old as the worker."""
    beginning = asyncio.get_running_loop().time()
    while True:
        metrics.age_s.set(min(keyring.age_s(), asyncio.get_running_loop().time() - beginning))
        await asyncio.sleep(1)


async def report_use(store: KeyStore, last_used: MutableMapping[str, float]) -> None:
    """Report to the store once a minute, and when cancelled, when keys were used. What it rejects is sent again."""
    try:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            await _report(store, last_used)
    finally:
        await _report(store, last_used)


async def _report(store: KeyStore, last_used: MutableMapping[str, float]) -> None:
    batch = dict(last_used)
    last_used.clear()
    try:
        if batch:
            await store.used(batch)
    except KeyStoreUnavailable as error:
        log.info("last-used times of keys will be reported to the store later: %s", error)
        for key_id, at in batch.items():
            last_used.setdefault(key_id, at)
