"""The key store, followed: what it says goes to the keyring, and when keys were last used goes back."""

import asyncio
import logging
from collections.abc import Callable, MutableMapping, Sequence

from authz_service.keyring import Keyring
from authz_service.metrics import StoreMetrics
from gatehouse.keys.store import KeyStore, KeyStoreUnavailable

log = logging.getLogger(__name__)

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 1.0
"""Between two tries to reach the store: its return is noticed within two seconds."""

REPORT_EVERY_S = 60.0


async def follow(
    store: KeyStore,
    keyring: Keyring,
    metrics: StoreMetrics,
    tried: asyncio.Event,
    after_change: Sequence[Callable[[], None]] = (),
) -> None:
    """Keep `keyring` as the store has it, for ever.

    `tried` is set once the store has spoken, or failed to; `after_change` is called whenever it has spoken.

    While the store does not answer, the keyring keeps what it had, and knows since when.
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
            reason: object = "it has nothing more to say"
        except KeyStoreUnavailable as error:
            reason = error
        except Exception as error:  # whatever it is, keys must go on being decided, and the store being asked
            reason = f"{type(error).__name__}; this is a mistake in the gateway"
        keyring.lose_touch()
        metrics.errors.inc()
        tried.set()
        if wait_s == FIRST_WAIT_S:
            log.error("the key store does not answer, keys are as they were: %s", reason)
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


async def show_age(keyring: Keyring, metrics: StoreMetrics) -> None:
    """Keep the metric of the store's age up to date, for ever. A store that was never heard is as old as the worker."""
    beginning = asyncio.get_running_loop().time()
    while True:
        metrics.age_s.set(min(keyring.age_s(), asyncio.get_running_loop().time() - beginning))
        await asyncio.sleep(1)


async def report_use(store: KeyStore, last_used: MutableMapping[str, float]) -> None:
    """Tell the store once a minute, and when cancelled, which keys were used and when. What it does not take waits."""
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
        log.info("when keys were last used is told to the store later: %s", error)
        for key_id, at in batch.items():
            last_used.setdefault(key_id, at)
