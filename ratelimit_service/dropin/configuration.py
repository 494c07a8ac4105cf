"""The rules in force: loaded at the start, and again whenever the files change."""

import asyncio
import logging

from ratelimit_service.dropin.config import ConfigError, load
from ratelimit_service.dropin.config_files import fingerprint, read
from ratelimit_service.dropin.rules import Rules
from ratelimit_service.dropin.settings import Settings
from ratelimit_service.dropin.stats import Stats

log = logging.getLogger(__name__)

POLL_S = 0.5


class Configuration:
    """`rules` is what the last good files said; None before there were any."""

    def __init__(self, settings: Settings, stats: Stats) -> None:
        self._directory = settings.runtime.directory
        self._ignore_dot_files = settings.runtime.ignoredotfiles
        self._merge_domains = settings.service.merge_domain_config
        self._stats = stats
        self._seen = self._fingerprint()
        self.rules: Rules | None = None

    def load(self) -> None:
        """Take up the files. Raises `ConfigError` or `OSError`, and leaves the rules as they are."""
        try:
            texts = read(self._directory, ignore_dot_files=self._ignore_dot_files)
            if not texts:
                raise ConfigError(str(self._directory), "no configuration files")
            self.rules = load(texts, merge_domains=self._merge_domains)
        except (ConfigError, OSError):
            self._stats.config_loaded(False)
            raise
        self._stats.config_loaded(True)

    async def follow(self) -> None:
        """Load again when the files change, for ever. Bad files are logged and counted, and change nothing.

        Looking twice a second costs a few system calls, and sees what notifications miss: links that are swapped
        anywhere on the way, and file systems of other machines.
        """
        while True:
            await asyncio.sleep(POLL_S)
            now = self._fingerprint()
            if now == self._seen:
                continue
            self._seen = now
            try:
                self.load()
            except (ConfigError, OSError) as error:
                log.error("error loading new configuration from runtime: %s", error)
            else:
                log.info("configuration loaded from %s", self._directory)

    def _fingerprint(self) -> object:
        return self._directory.resolve(), fingerprint(self._directory, ignore_dot_files=self._ignore_dot_files)
