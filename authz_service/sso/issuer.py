"""One issuer: its keys, fetched in the background and kept up to date.

A request never fetches. One that shows a token of an unknown key, as the first after a rotation does, has the
background fetch early and waits a moment for it.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

from authz_service.sso.fetch import Document, FetchError
from authz_service.sso.jwks import Keys, UnusableKeysError, keys
from gatehouse.config.model import JwtIssuer

log = logging.getLogger(__name__)

Fetch = Callable[[], Awaitable[Document]]

MIN_PERIOD_S = 60.0
"""Keys are not fetched more often than this for what the issuer's Cache-Control says."""

FIRST_RETRY_S, LAST_RETRY_S = 0.5, 15.0
"""After failures: soon at first, then with growing pauses."""

FIRST_EARLY_S, LAST_EARLY_S = 1.0, 10.0
"""Least time between early fetches. It doubles while they bring nothing new, since anyone can make up a key id."""


class Issuer:
    """`fetch` gives the issuer's JWK Set or raises `FetchError`; `counted` is told how each fetch went."""

    def __init__(
        self,
        settings: JwtIssuer,
        fetch: Fetch,
        counted: Callable[[bool], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._fetch, self._counted, self._clock = fetch, counted, clock
        self._keys: Keys | None = None
        self._document = b""
        self._period_s = float(settings.refresh_s)
        self._fetched_at = -math.inf
        self._failures = 0
        self._early_from, self._early_pause_s = -math.inf, FIRST_EARLY_S
        self._fetching: asyncio.Task[None] | None = None

    @property
    def keys(self) -> Keys | None:
        """The issuer's keys; None when they were never fetched, or not for `max_stale_s`.

        The same object for as long as the issuer publishes the same document.
        """
        return self._keys if self._clock() - self._fetched_at <= self.settings.max_stale_s else None

    async def follow(self) -> NoReturn:
        """Keep the keys up to date until cancelled."""
        try:
            while True:
                await self._fetched()
                await asyncio.sleep(self._pause_s())
        finally:
            if self._fetching:
                self._fetching.cancel()

    async def newer(self, within_s: float) -> bool:
        """Fetch early, if it is not too soon after the last time; returns when that is done or `within_s` are over.

        Whether there is nothing more to wait for. However many ask at a time, there is one fetch.
        """
        if self._fetching is None:
            now = self._clock()
            if now < self._early_from:
                return True
            self._early_from = now + self._early_pause_s
            self._early_pause_s = min(2 * self._early_pause_s, LAST_EARLY_S)
        done, _ = await asyncio.wait({self._fetched()}, timeout=within_s)
        return bool(done)

    def _fetched(self) -> "asyncio.Task[None]":
        """The fetch under way, or a new one. It never fails."""
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._refresh())
            self._fetching.add_done_callback(self._done)
        return self._fetching

    def _done(self, _task: "asyncio.Task[None]") -> None:
        self._fetching = None

    async def _refresh(self) -> None:
        try:
            document = await self._fetch()
            self._take(document)
        except (FetchError, UnusableKeysError) as error:
            self._failed(str(error))
        except Exception as error:  # whatever one issuer sends, tokens of the others must go on
            self._failed(f"unexpected {type(error).__name__}")
        else:
            self._counted(True)

    def _take(self, document: Document) -> None:
        """Use the keys of `document` from now on. Raises `UnusableKeysError`; then the old ones stay."""
        if self._keys is None or document.body != self._document:
            self._keys = keys(document.body, self.settings.algorithms)
            self._document = document.body
            self._early_pause_s = FIRST_EARLY_S
            log.info("took the keys of %s", self.settings.label)
        elif self._failures:
            log.info("the keys of %s can be fetched again", self.settings.label)
        self._fetched_at = self._clock()
        self._failures = 0
        self._period_s = _period_s(document.max_age_s, self.settings.refresh_s)

    def _failed(self, why: str) -> None:
        self._counted(False)
        self._failures += 1
        if self._failures == 1:
            log.warning("can't get the keys of %s: %s", self.settings.label, why)

    def _pause_s(self) -> float:
        """Until the next fetch: not all workers at once."""
        retry_s = FIRST_RETRY_S * 2 ** min(self._failures, 10)
        pause_s = min(retry_s, LAST_RETRY_S, self._period_s) if self._failures else self._period_s
        return pause_s * random.uniform(0.9, 1.0)


def _period_s(max_age_s: int | None, refresh_s: float) -> float:
    """As often as configured; more often where the issuer asks for it, but not very often."""
    return refresh_s if max_age_s is None else min(refresh_s, max(max_age_s, MIN_PERIOD_S))
