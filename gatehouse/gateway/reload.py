"""Applies a changed configuration while requests run: checked as a whole, then applied completely or not at all.

The supervisor of `gatehouse up`, or `gatehouse render --watch`, watches `gatehouse.yaml`. Envoy gets its files; the
services reload from a copy of the last accepted configuration. So all parts of a gateway agree on what is valid, and a
worker that restarts while the file is bad still finds the good one.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gatehouse.config.model import Config
from gatehouse.config.problem import VARIABLE, ConfigError, Problem
from gatehouse.config.run_dir import RunDir
from gatehouse.envoy import Rendered, merged, render
from gatehouse.envoy.message import Message
from gatehouse.files.private_dir import private_directory
from gatehouse.files.watch import POLL_S, Fingerprint, changed, fingerprint
from gatehouse.gateway.envoy_admin import Admin
from gatehouse.gateway.envoy_binary import EnvoyRejectsError, validate, write
from gatehouse.gateway.xds_files import Switch
from gatehouse.loading.accepted import Accepted, accepted, forget_others
from gatehouse.loading.complete import KeyFiles, load_whole
from gatehouse.loading.fixed import HINT, changed_fields
from gatehouse.loading.follower import MOST_PROBLEMS, either
from gatehouse.loading.key_table import KeyTable
from gatehouse.loading.load import Loaded, digest_of, text_of
from gatehouse.metrics import Reloads

log = logging.getLogger(__name__)

REFUSED_AGAIN_S = 30.0
"""Retry after Envoy rejected a file: what it lacked, such as a writable directory, may be there now."""


@dataclass(frozen=True, slots=True)
class Target:
    """A configuration file and its outputs: Envoy's files in `directory`, rendered with the paths of `run_dir` and
    `access_log`, and the services' copy at `accepted`, if not None.

    `certificate`: parts of a TLS context for validation, where Envoy does not read the files of `server.tls` itself.
    """

    file: Path
    run_dir: RunDir
    access_log: str
    directory: Path
    accepted: Path | None
    certificate: Callable[[], Message] | None = None

    def render(self, config: Config) -> Rendered:
        return render(config, self.run_dir, self.access_log)

    def check(self, config: Config) -> None:
        """Have Envoy validate it. Raises `EnvoyRejectsError`."""
        with private_directory() as directory:
            here = Path(self.access_log).parent.is_dir()  # Envoy, and so its log, may be in another container
            access_log = self.access_log if here else f"{directory}/access.log"
            secrets = self.certificate() if self.certificate else None
            validate(merged(config, self.run_dir, access_log, secrets), directory)

    def copy_of(self, loaded: Loaded) -> Accepted | None:
        """The services' copy, not yet published."""
        return accepted(loaded, self.accepted) if self.accepted else None

    def publish(self, copy: Accepted | None) -> None:
        if self.accepted and copy:
            copy.publish(self.accepted)

    def forget_others(self, *kept: Accepted | None) -> None:
        if self.accepted:
            forget_others(self.accepted, *filter(None, kept))


async def _nothing(_old: Config, _new: Config) -> None:
    """No one else to notify."""


@dataclass(slots=True)
class Following:
    """Watches and applies. `config` is the active configuration, `digest` that of its file's text, `copy` the services'
    copy. `adopted` is called with (old, new) after each change. Set `asked` to reload even unchanged files."""

    target: Target
    config: Config
    digest: bytes
    copy: Accepted | None
    switch: Switch
    reloads: Reloads
    adopted: Callable[[Config, Config], Awaitable[None]] = _nothing
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    _told: tuple[tuple[str, ...], Fingerprint] | None = None
    _seen: Fingerprint = field(default_factory=dict)
    _key_files: KeyFiles = field(default_factory=KeyFiles)

    async def run(self) -> None:
        """Apply changes until cancelled. If one fails, the active configuration stays.

        A change that the machine prevents, for instance by a full disk, is retried until it succeeds.
        """
        self._look()
        await asyncio.to_thread(self._read_key_files)
        again_s: float | None = None
        if not await asyncio.to_thread(self._differs):  # it may have changed during the start
            await either(self._something_to_do(), self.asked, None)
        while True:
            again_s = await self._attempt()
            await either(self._something_to_do(), self.asked, again_s)

    async def _attempt(self) -> float | None:
        """Try to apply the files; returns the seconds until a retry, None for no retry."""
        self._look()
        try:
            await self._take_up()
        except ConfigError as error:
            self._refuse(error.problems)
            self._look_beside(error.problems)
            return POLL_S if any(problem.passing for problem in error.problems) else None
        except EnvoyRejectsError as error:
            message = f"Envoy rejected the configuration rendered from this file: {error}"
            self._refuse([Problem(str(self.target.file), None, "", message)])
            return REFUSED_AGAIN_S
        except Exception as error:
            self._refuse([f"{type(error).__name__}: {error}"])
            return POLL_S
        self._told = None
        return None

    async def _something_to_do(self) -> None:
        """Returns when a file has changed; meanwhile removes old clusters when they are due."""
        while True:
            try:
                async with asyncio.timeout(self.switch.due_s()):
                    return await changed(self._seen)
            except TimeoutError:
                try:
                    await self.switch.forget()
                except EnvoyRejectsError as error:
                    log.error("%s", error)

    def _look(self) -> None:
        self._seen = fingerprint([self.target.file, *map(Path, self.config.key_files)])

    def _look_beside(self, problems: Sequence[Problem]) -> None:
        """Also watch the files that problems are in: fixing one may fix the configuration."""
        origins = {problem.origin for problem in problems if not problem.origin.startswith(VARIABLE)}
        self._seen = {**fingerprint(map(Path, origins)), **self._seen}

    def _read_key_files(self) -> None:
        """Parse the key files in advance, so that the first change need not."""
        with suppress(ConfigError):
            self._key_files.check(self.target.file, self.config, KeyTable())

    def _differs(self) -> bool:
        try:
            return digest_of(text_of(self.target.file)) != self.digest
        except ConfigError:
            return True

    async def _take_up(self) -> None:
        """Raises `ConfigError` and `EnvoyRejectsError`; the active configuration then stays."""
        asked = self.asked.is_set()
        self.asked.clear()
        if not asked and not await asyncio.to_thread(self._differs):
            return  # a key file changed, which authz_service reloads; or a bad change was reverted
        loaded, rendered, copy = await asyncio.to_thread(self._candidate)
        try:
            await self.switch.to(rendered, lambda: self.target.publish(copy))
        except Exception:
            self.target.publish(self.copy)
            raise
        self.target.forget_others(self.copy, copy)  # a worker starting now may still open the old copy
        old, self.config, self.digest, self.copy = self.config, loaded.config, loaded.digest, copy
        self._seen = {**fingerprint(map(Path, self.config.key_files)), **self._seen}
        await self.adopted(old, self.config)
        self.reloads.applied.inc()
        log.info("%s is applied", self.target.file)
        for warning in loaded.warnings:
            log.warning("%s", warning)

    def _candidate(self) -> tuple[Loaded, Rendered, Accepted | None]:
        loaded = load_whole(self.target.file, self.config, self._key_files)
        rendered = self.target.render(loaded.config)
        if rendered.bootstrap != self.switch.rendered.bootstrap:
            fields = ", ".join(changed_fields(self.config, loaded.config))
            raise ConfigError([Problem(str(self.target.file), None, "", f"needs a restart: {fields}", HINT)])
        if rendered != self.switch.rendered:
            self.target.check(loaded.config)
        return loaded, rendered, self.target.copy_of(loaded)

    def _refuse(self, problems: Sequence[object]) -> None:
        """Log and count a failing change once, however often it is retried."""
        found = tuple(map(str, problems[:MOST_PROBLEMS])), dict(self._seen)
        if found == self._told:
            return
        self._told = found
        self.reloads.rejected.inc()
        for problem in found[0]:
            log.error("a change is rejected: %s", problem)


def started(
    target: Target,
    loaded: Loaded,
    reloads: Reloads,
    adopted: Callable[[Config, Config], Awaitable[None]] = _nothing,
) -> Following:
    """Check and write all files that Envoy and the services start with.

    Raises `EnvoyRejectsError` before anything is written. Frees the keys of `loaded`: they are in a file now, and may
    be many.
    """
    config = loaded.config
    with ThreadPoolExecutor(1) as envoy:  # slow, as are many keys: run both at once
        checked = envoy.submit(target.check, config)
        copy = target.copy_of(loaded)
        checked.result()
    if loaded.keys:
        loaded.keys.forget()
    rendered = target.render(config)
    for name, document in rendered.files().items():
        write(document, target.directory / name)
    target.publish(copy)
    switch = Switch(target.directory, Admin(target.run_dir.admin_socket), rendered)
    return Following(target, config, loaded.digest, copy, switch, reloads, adopted)
