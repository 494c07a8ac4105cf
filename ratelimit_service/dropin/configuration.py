"""The rules in force: loaded at the start, and again whenever the files change."""

import asyncio
import logging

from ratelimit_service.dropin import reading
from ratelimit_service.dropin.config import ConfigError
from ratelimit_service.dropin.rules import Rules
from ratelimit_service.dropin.settings import Settings
from ratelimit_service.dropin.stats import Stats

log = logging.getLogger(__name__)

POLL_S = 0.5


class Configuration:
    """`rules` is what the last good files said; None before there were any. Files that are all gone say: no limits."""

    def __init__(self, settings: Settings, stats: Stats) -> None:
        self._source = settings.runtime.source
        self._merge_domains = settings.service.merge_domain_config
        self._stats = stats
        self._seen: object = None
        self._fault = ""
        self.rules: Rules | None = None

    async def load(self) -> None:
        """Take up the files. Bad ones are logged and counted, and leave the rules as they are.

        What can't be read now is tried again; that it still can't is not said again.
        """
        seen = self._fingerprint()
        try:
            if not self._source.exists():
                raise ConfigError(str(self._source.directory), "no such directory")
            self.rules = await reading.read(self._source, merge_domains=self._merge_domains)
        except (ConfigError, OSError) as error:
            self._seen = None if isinstance(error, OSError) else seen
            self._failed(str(error))
        else:
            self._seen, self._fault = seen, ""
            self._stats.config_loaded(True)
            log.info("configuration loaded from %s", self._source.directory)

    async def follow(self) -> None:
        """Load again when the files change, for ever.

        Looking twice a second costs a few system calls, and sees what notifications miss: links that are swapped
        anywhere on the way, and file systems of other machines.
        """
        while True:
            await asyncio.sleep(POLL_S)
            if self._fingerprint() != self._seen:
                await self.load()

    def _failed(self, fault: str) -> None:
        if self._seen is None and fault == self._fault:
            return
        self._fault = fault
        self._stats.config_loaded(False)
        log.error("error loading configuration from runtime: %s", fault)

    def _fingerprint(self) -> object:
        return self._source.directory.resolve(), self._source.exists(), self._source.fingerprint()
