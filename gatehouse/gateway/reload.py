"""A changed configuration, put in force while requests run: checked as a whole, and then all of it or nothing.

Who follows is the supervisor of `gatehouse up`, or `gatehouse render --watch`. Envoy gets its files; the services get a
copy of `gatehouse.yaml` as it was accepted, and follow that: so all parts of a gateway go by one verdict, and a worker
that has to start again while the file is bad finds the good one.
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
from gatehouse.loading.fixed import HINT, MESSAGE
from gatehouse.loading.follower import MOST_PROBLEMS, either
from gatehouse.loading.key_table import KeyTable
from gatehouse.loading.load import Loaded, digest_of, text_of
from gatehouse.metrics import Reloads

log = logging.getLogger(__name__)

REFUSED_AGAIN_S = 30.0
"""Envoy may have refused for want of something that it has by then, such as a directory it may write to."""


@dataclass(frozen=True, slots=True)
class Target:
    """A configuration file, and what is made of it: Envoy's files in `directory`, with paths as `run_dir` and
    `access_log` say, and the copy at `accepted`, if one is wanted.

    `certificate`: parts of a TLS context to check with, where Envoy is not given the files of `server.tls` themselves.
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
        """Raises `EnvoyRejectsError` for what Envoy would not run."""
        with private_directory() as directory:
            here = Path(self.access_log).parent.is_dir()  # where Envoy runs elsewhere, its log may be elsewhere, too
            access_log = self.access_log if here else f"{directory}/access.log"
            secrets = self.certificate() if self.certificate else None
            validate(merged(config, self.run_dir, access_log, secrets), directory)

    def copy_of(self, loaded: Loaded) -> Accepted | None:
        """What services are to go by; nobody does as yet."""
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
    """`config` is what is in force, `digest` that of its file's text, `copy` what services go by. `adopted` is told of
    a change (the old, the new) once it is. `asked`: set it, and all is read again, changed or not."""

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
        """Follow until cancelled. Whatever fails, what is in force stays.

        A change that fails for the machine's sake, such as a full disk, is tried again until it is taken up.
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
        """Take up what there is; when to try that again, in seconds, if ever."""
        self._look()
        try:
            await self._take_up()
        except ConfigError as error:
            self._refuse(error.problems)
            self._look_beside(error.problems)
            return POLL_S if any(problem.passing for problem in error.problems) else None
        except EnvoyRejectsError as error:
            self._refuse([Problem(str(self.target.file), None, "", f"Envoy refuses what it becomes: {error}")])
            return REFUSED_AGAIN_S
        except Exception as error:
            self._refuse([f"{type(error).__name__}: {error}"])
            return POLL_S
        self._told = None
        return None

    async def _something_to_do(self) -> None:
        """Returns when a file has changed; forgets clusters when it is time."""
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
        """Raises `ConfigError` and `EnvoyRejectsError`, with what was in force in force."""
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
            raise ConfigError([Problem(str(self.target.file), None, "", f"what is new in it {MESSAGE}", HINT)])
        if rendered != self.switch.rendered:
            self.target.check(loaded.config)
        return loaded, rendered, self.target.copy_of(loaded)

    def _refuse(self, problems: Sequence[object]) -> None:
        """Told and counted once, however often it is tried."""
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
    """Check and write everything for what is `loaded`: what Envoy and the services start with.

    Raises `EnvoyRejectsError` with nothing in force. The keys are forgotten: they are written down, and may be many.
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
