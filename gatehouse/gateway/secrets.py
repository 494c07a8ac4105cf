"""Reloads Envoy's certificate when its files change: a new pair is applied as a whole, a bad one is rejected.

Envoy reads a copy of the pair from one file, replaced atomically after Envoy has validated it. If it read the original
files, it could load a new certificate with an old key, or a half-written file.
"""

import asyncio
import logging
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from gatehouse.config.model import Tls
from gatehouse.config.problem import ConfigError
from gatehouse.envoy import tls as envoy_tls
from gatehouse.envoy.message import Message
from gatehouse.files.watch import POLL_S, Fingerprint, changed, fingerprint
from gatehouse.gateway.certificate import Certificate, MismatchError, read, untimely
from gatehouse.gateway.envoy_binary import EnvoyRejectsError, validate, write
from gatehouse.metrics import Reloads

log = logging.getLogger(__name__)

SECOND_FILE_S = 1.0
"""Time to replace the second file of a pair before a mismatch is reported."""


class Secrets:
    """The certificate files for Envoy in `directory`. Raises `ConfigError` if there is no usable pair at the start."""

    def __init__(self, tls: Tls, directory: Path) -> None:
        self._tls = tls
        self._directory = directory
        self._seen = self._look()
        self._served = read(tls)

    def hand_over(self) -> None:
        """Write the files that Envoy reads, readable only by their owner."""
        self._hand_over(self._served)

    def _hand_over(self, certificate: Certificate) -> None:
        for name, secret in envoy_tls.secret_files(*_inline(certificate)).items():
            write(secret, self._directory / name)

    def context(self) -> Message:
        """The parts of a TLS context, for validation."""
        return envoy_tls.static_secrets(*_inline(self._served))

    async def follow(self, reloads: Reloads) -> None:
        """Apply changes of the files until cancelled."""
        told = ""
        while True:
            with suppress(TimeoutError):  # retries a failed write
                await asyncio.wait_for(changed(self._seen), POLL_S if told else None)
            self._seen, before = self._look(), self._served
            try:
                new = await self._new()
                if new != before:
                    await asyncio.to_thread(self._try, new)
                    self._hand_over(new)
            except (ConfigError, EnvoyRejectsError) as error:
                told = ""
                self._refuse(reloads, error)
                continue
            except OSError as error:
                if str(error) != told:
                    self._refuse(reloads, error)
                told = str(error)
                continue
            told = ""
            if new != before:
                self._served = new
                reloads.applied.inc()
                log.info("now serving the certificate of %s, valid until %s", new.subject, new.ends)

    def _refuse(self, reloads: Reloads, error: Exception) -> None:
        reloads.rejected.inc()
        log.error("the new certificate is rejected, the old one stays: %s", error)

    async def _new(self) -> Certificate:
        try:
            found = read(self._tls)
        except MismatchError:
            await self._second_file()
            self._seen = self._look()
            found = read(self._tls)
        problem = untimely(found, self._tls, datetime.now(UTC))
        if problem:
            raise ConfigError([problem])
        return found

    async def _second_file(self) -> None:
        try:
            await asyncio.wait_for(changed(self._seen, SECOND_FILE_S / 5), SECOND_FILE_S)
        except TimeoutError:
            return

    def _try(self, new: Certificate) -> None:
        """Raises `EnvoyRejectsError`."""
        validate(envoy_tls.trial(self._tls, envoy_tls.static_secrets(*_inline(new))), self._directory)

    def _look(self) -> Fingerprint:
        files = (self._tls.cert_file, self._tls.key_file, self._tls.client_ca_file)
        return fingerprint(Path(file) for file in files if file)


def _inline(certificate: Certificate) -> tuple[envoy_tls.Source, envoy_tls.Source, envoy_tls.Source | None]:
    client_ca = {"inline_string": certificate.client_ca} if certificate.client_ca else None
    return {"inline_string": certificate.chain}, {"inline_string": certificate.key}, client_ca
