"""Applies a changed configuration while requests run: checks it as a whole, then applies all of it or nothing.

The supervisor of `gatehouse up`, or `gatehouse render --watch`, follows the files. Envoy gets its rendered files; the
services follow a copy of the last accepted `gatehouse.yaml`, so all parts of a gateway use the same configuration, and
a worker that restarts while the file is invalid uses the last good one.
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
from gatehouse.loading.fixed import HINT
from gatehouse.loading.follower import MOST_PROBLEMS, either
from gatehouse.loading.key_table import KeyTable
from gatehouse.loading.load import Loaded, digest_of, text_of
from gatehouse.metrics import Reloads

log = logging.getLogger(__name__)

REFUSED_AGAIN_S = 30.0
"""Pause before another attempt: Envoy may have lacked something that exists later, such as a writable directory."""


@dataclass(frozen=True, slots=True)
class Target:
    """A configuration file and its products: Envoy's files in `directory`, with paths from `run_dir` and `access_log`,
    and the copy at `accepted`, if any.

    `certificate`: parts of a TLS context for the check, if Envoy does not read the files of `server.tls` itself.
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
        """Raises `EnvoyRejectsError` if Envoy rejects the rendered configuration."""
        with private_directory() as directory:
            here = Path(self.access_log).parent.is_dir()  # where Envoy runs elsewhere, its log may be elsewhere, too
            access_log = self.access_log if here else f"{directory}/access.log"
            secrets = self.certificate() if self.certificate else None
            validate(merged(config, self.run_dir, access_log, secrets), directory)

    def copy_of(self, loaded: Loaded) -> Accepted | None:
        """The services' copy, not published yet."""
        return accepted(loaded, self.accepted) if self.accepted else None

    def publish(self, copy: Accepted | None) -> None:
        if self.accepted and copy:
            copy.publish(self.accepted)

    def forget_others(self, *kept: Accepted | None) -> None:
        if self.accepted:
            forget_others(self.accepted, *filter(None, kept))


async def _nothing(_old: Config, _new: Config) -> None:
    """Nobody else need be told."""


@dataclass(slots=True)
class Following:
    """`config` is active, `digest` that of its file's text, `copy` the services' copy. `adopted` is called with the old
    and the new configuration after a change. Set `asked` to read everything again, changed or not."""

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
        """Follow until cancelled. Whatever fails, the active configuration stays.

        A change that fails because of the machine, such as a full disk, is retried until it is applied.
        """
        self._look()
        await asyncio.to_thread(self._read_key_files)
        again_s: float | None = None
        if not await asyncio.to_thread(self._differs):  # it may have changed while the gateway came up
            await either(self._something_to_do(), self.asked, None)
        while True:
            again_s = await self._attempt()
            await either(self._something_to_do(), self.asked, again_s)

    async def _attempt(self) -> float | None:
        """Apply the change, if any; returns the seconds until a retry, None for no retry."""
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
        """Returns when a file has changed; removes lingering clusters when they are due."""
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
        """A file that makes another one bad may change, too."""
        origins = {problem.origin for problem in problems if not problem.origin.startswith(VARIABLE)}
        self._seen = {**fingerprint(map(Path, origins)), **self._seen}

    def _read_key_files(self) -> None:
        """Now, so that it need not be done when something is changed."""
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
            return  # what changed is a key file, which authz_service follows; or a bad change was taken back
        loaded, rendered, copy = await asyncio.to_thread(self._candidate)
        try:
            await self.switch.to(rendered, lambda: self.target.publish(copy))
        except Exception:
            self.target.publish(self.copy)
            raise
        self.target.forget_others(self.copy, copy)  # who starts just now may still look for the one before
        old, self.config, self.digest, self.copy = self.config, loaded.config, loaded.digest, copy
        self._seen = {**fingerprint(map(Path, self.config.key_files)), **self._seen}
        await self.adopted(old, self.config)
        self.reloads.applied.inc()
        log.info("%s is in force as it is now", self.target.file)
        for warning in loaded.warnings:
            log.warning("%s", warning)

    def _candidate(self) -> tuple[Loaded, Rendered, Accepted | None]:
        loaded = load_whole(self.target.file, self.config, self._key_files)
        rendered = self.target.render(loaded.config)
        if rendered.bootstrap != self.switch.rendered.bootstrap:
            altered = _altered(self.switch.rendered, rendered)
            message = f"this change needs a restart: it alters {altered} in Envoy's bootstrap"
            raise ConfigError([Problem(str(self.target.file), None, "", message, HINT)])
        if rendered != self.switch.rendered:
            self.target.check(loaded.config)
        return loaded, rendered, self.target.copy_of(loaded)

    def _refuse(self, problems: Sequence[object]) -> None:
        """Logged and counted once, however often it is retried."""
        found = tuple(map(str, problems[:MOST_PROBLEMS])), dict(self._seen)
        if found == self._told:
            return
        self._told = found
        self.reloads.rejected.inc()
        for problem in found[0]:
            log.error("a change is not taken up: %s", problem)


def started(
    target: Target,
    loaded: Loaded,
    reloads: Reloads,
    adopted: Callable[[Config, Config], Awaitable[None]] = _nothing,
) -> Following:
    """Check `loaded` and write everything that Envoy and the services start with.

    Raises `EnvoyRejectsError` with nothing applied. Drops the keys from memory: they are in a file, and may be many.
    """
    config = loaded.config
    with ThreadPoolExecutor(1) as envoy:  # which takes its time, as many keys do
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


def _altered(old: Rendered, new: Rendered) -> str:
    names = old.bootstrap.keys() | new.bootstrap.keys()
    return ", ".join(sorted(name for name in names if old.bootstrap.get(name) != new.bootstrap.get(name)))
