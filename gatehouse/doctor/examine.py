"""Runs all checks at the same time; findings come in the order of this list."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from gatehouse.config.model import Config
from gatehouse.doctor.backends import backends
from gatehouse.doctor.envoy import envoy
from gatehouse.doctor.files import key_files, log_directory
from gatehouse.doctor.finding import Finding
from gatehouse.doctor.ports import ports
from gatehouse.doctor.reachable import issuers, traces
from gatehouse.doctor.redis import redis
from gatehouse.doctor.resources import memory, open_files, watchers
from gatehouse.loading.load import Loaded

Check = Callable[[], Coroutine[Any, Any, list[Finding]]]


def checks(loaded: Loaded, config_file: Path) -> dict[str, Check]:
    """The subject of a check -> the check."""
    config = loaded.config
    secrets = partial(key_files, config, config_file, plain_keys=loaded.plain_key is not None)
    return {
        "Envoy": _aside(partial(envoy, config)),
        "the ports": _aside(partial(ports, config)),
        "certificates": _aside(partial(_certificates, config)),
        "Redis": partial(redis, config),
        "model servers": partial(backends, config),
        "issuers": partial(issuers, config),
        "the receiver of traces": partial(traces, config),
        "logs": _aside(partial(log_directory, config)),
        "key files": _aside(secrets),
        "open files": _aside(partial(open_files, config)),
        "file watchers": _aside(watchers),
        "memory": _aside(partial(memory, config)),
    }


async def examine(wanted: dict[str, Check], tell: Callable[[str], None]) -> AsyncIterator[Finding]:
    """All findings; `tell` is called with the subject that is being waited for."""
    running = {what: asyncio.create_task(check()) for what, check in wanted.items()}
    for what, findings in running.items():
        tell(f"looking at {what} …")
        for finding in await findings:
            yield finding


def _certificates(config: Config) -> list[Finding]:
    from gatehouse.doctor.certificates import certificates

    tls = config.server.tls
    return [] if tls is None else certificates(tls, datetime.now(UTC))


def _aside(check: Callable[[], list[Finding]]) -> Check:
    """Run a check that blocks on files and programs in a thread of its own."""
    return lambda: asyncio.to_thread(check)
