"""The rules in force: loaded at the start, and again whenever the files change."""

import asyncio
import logging
import math
import time

from ratelimit_service.dropin.config import reader_process
from ratelimit_service.dropin.config.parse import ConfigError
from ratelimit_service.dropin.config.rules import Rules
from ratelimit_service.dropin.settings import Settings
from ratelimit_service.dropin.stats import Stats

log = logging.getLogger(__name__)

POLL_S = 0.5
RETRY_S = 5.0


class Configuration:
    """`rules` come from the last valid files; None before the first. A directory without files means no limits."""

    def __init__(self, settings: Settings, stats: Stats) -> None:
        self._source = settings.runtime.source
        self._merge_domains = settings.service.merge_domain_config
        self._stats = stats
        self._seen: object = None
        self._again = math.inf
        self._fault = ""
        self.rules: Rules | None = None

    async def load(self) -> None:
        """Load the files. Invalid ones are logged and counted, and the rules stay in force."""
        self._seen, self._again = self._fingerprint(), math.inf
        try:
            if not self._source.exists():
                raise ConfigError(str(self._source.directory), "no such directory")
            self.rules = await reader_process.read(self._source, merge_domains=self._merge_domains)
        except (ConfigError, OSError) as error:
            self._failed(error)
        else:
            self._fault = ""
            self._stats.config_loaded(True)
            log.info("configuration loaded from %s", self._source.directory)

    async def follow(self) -> None:
        """Reload changed files until cancelled; retry unreadable ones every `RETRY_S`.

        Polling twice a second costs a few system calls and sees what notifications miss: symlinks swapped anywhere
        in the path, and network file systems.
        """
        while True:
            await asyncio.sleep(POLL_S)
            if self._fingerprint() != self._seen or time.monotonic() >= self._again:
                await self.load()

    def _failed(self, error: Exception) -> None:
        """Count the error and log it; a file that stays unreadable is logged once."""
        self._stats.config_loaded(False)
        if isinstance(error, OSError):
            self._again = time.monotonic() + RETRY_S
        if not isinstance(error, OSError) or str(error) != self._fault:
            log.error("error loading configuration from runtime: %s", error)
        self._fault = str(error)

    def _fingerprint(self) -> object:
        return self._source.directory.resolve(), self._source.exists(), self._source.fingerprint()
