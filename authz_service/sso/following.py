"""The issuers of a configuration that may change: their keys are kept up to date for as long as they are in it."""

import asyncio
from functools import partial

from authz_service.sso import fetch
from authz_service.sso.issuer import Issuer
from authz_service.sso.metrics import Metrics
from authz_service.sso.principals import TokenPrincipals
from gatehouse.config.model import Config, JwtIssuer


class Issuers:
    """Make it where an event loop runs. An issuer whose settings stay the same keeps its keys."""

    def __init__(self) -> None:
        self._session = fetch.session()
        self._metrics = Metrics()
        self._running: dict[JwtIssuer, tuple[Issuer, asyncio.Task[None]]] = {}

    def principals(self, config: Config) -> TokenPrincipals:
        """The principals of `config.jwt`. Those of configurations before it get no more keys."""
        before, self._running = self._running, {}
        for settings in config.jwt:
            self._running[settings] = before.pop(settings) if settings in before else self._started(settings)
        for _, task in before.values():
            task.cancel()
        issuers = [issuer for issuer, _ in self._running.values()]
        return TokenPrincipals(issuers, config.rate_limits, config.teams, self._metrics)

    async def close(self) -> None:
        tasks = {task for _, task in self._running.values()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._session.close()

    def _started(self, settings: JwtIssuer) -> tuple[Issuer, asyncio.Task[None]]:
        self._metrics.know(settings.label)
        refreshed = partial(self._metrics.refreshed, settings.label)
        issuer = Issuer(settings, partial(fetch.jwk_set, self._session, settings), refreshed)
        return issuer, asyncio.create_task(issuer.follow())
