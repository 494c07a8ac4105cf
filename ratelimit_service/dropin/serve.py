"""The drop-in for envoyproxy/ratelimit: `--runtime-root DIR`, or RUNTIME_ROOT in the environment."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from gatehouse.rpc.server import serve
from gatehouse.rpc.service import Service
from gatehouse.rpc.tcp import Option, Tcp
from ratelimit_service.dropin import http_pages, logs, tls
from ratelimit_service.dropin.config.check import OK, check
from ratelimit_service.dropin.config.reload import Configuration
from ratelimit_service.dropin.config.rules import dump
from ratelimit_service.dropin.environment import SettingsError, ignored
from ratelimit_service.dropin.health import NeverReachedError, Reachable, Readiness
from ratelimit_service.dropin.local_cache import LocalCache
from ratelimit_service.dropin.per_second import PerSecond
from ratelimit_service.dropin.redis_clients import client
from ratelimit_service.dropin.service import Options, RateLimits
from ratelimit_service.dropin.settings import Settings, load
from ratelimit_service.dropin.stats import Stats
from ratelimit_service.store.port import Store
from ratelimit_service.store.redis.store import RedisStore

log = logging.getLogger(__name__)

_FOR_EVER_MS = 2**31 - 1

PROGRAM = "python -m ratelimit_service.dropin"
"""Its one front door."""

GRACE_S = 10.0
"""How long running calls may take after SIGTERM."""


def run(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """Serve until SIGTERM, or check a directory. Returns the exit status: 1 bad files, 2 bad settings."""
    options = _parser().parse_args(arguments)
    if options.check:
        fault = check(options.config_dir, merge_domains=options.merge_domain_configs)
        print(fault or OK)
        return 1 if fault else 0
    root = {"RUNTIME_ROOT": options.runtime_root} if options.runtime_root else {}
    try:
        settings = load({**environment, **root})
        logs.configure(settings.service.log_level, settings.service.log_format)
        for line in ignored(environment):
            log.warning(line)
        uvloop.run(_until_signal(settings))
    except (SettingsError, NeverReachedError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop`, then finish running calls.

    Raises `SettingsError`, `OSError` when a port is taken, and `NeverReachedError`.
    """
    clients = [client(server, settings.redis_tls) for server in (settings.redis, settings.per_second) if server]
    stats = Stats(settings.service.near_limit_ratio, split_labels=settings.service.gatehouse_split_labels)
    stores = [RedisStore(client, prefix=f"{settings.service.cache_key_prefix}rl:") for client in clients]
    configuration, store, redis = Configuration(settings, stats), _store(settings, stores), Reachable(stores)
    limits = RateLimits(lambda: configuration.rules, store, stats, _options(settings))
    health = Readiness(lambda: redis.yes and _is_configured(configuration, settings))
    http, service = settings.http, settings.service
    public = http_pages.public(limits.answer_json, lambda: health.serving)
    debug = http_pages.debug(lambda: dump(configuration.rules or {}), stats.lines)
    await configuration.load()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        await stack.enter_async_context(http_pages.serving(public, http.host, http.port, shared=True))
        await stack.enter_async_context(http_pages.serving(debug, http.debug_host, http.debug_port, shared=True))
        if service.use_prometheus:
            scraped = http_pages.prometheus(service.prometheus_path, stats.exposition)
            await stack.enter_async_context(http_pages.serving(scraped, *service.prometheus))
        answers = serve(Service(limits.methods, health), _address(settings), stop, GRACE_S, _options_of_grpc(settings))
        await _together(answers, configuration.follow(), _watch(redis, settings))


async def _together(service: Coroutine[None, None, None], *companions: Coroutine[None, None, None]) -> None:
    """Run until `service` ends; an error in any task ends all."""
    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(companion) for companion in companions]
            await service
            for task in running:
                task.cancel()
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _watch(redis: Reachable, settings: Settings) -> None:
    await redis.first(settings.redis_startup)
    if settings.service.redis_health_check_active_connection:
        await redis.watch()


def _is_configured(configuration: Configuration, settings: Settings) -> bool:
    return bool(configuration.rules) or not settings.service.healthy_with_at_least_one_config_loaded


def _store(settings: Settings, stores: Sequence[Store]) -> Store:
    store: Store = PerSecond(stores[1], stores[0]) if len(stores) > 1 else stores[0]
    size = settings.service.local_cache_size_in_bytes
    return LocalCache(store, size) if size else store


def _options(settings: Settings) -> Options:
    name = settings.grpc.client_tls_san
    return Options(
        modes=settings.service.modes,
        headers=settings.headers.names,
        metadata=settings.service.response_dynamic_metadata,
        **({"admits": lambda context: tls.is_named(context, name)} if name else {}),
    )


def _address(settings: Settings) -> Path | Tcp:
    grpc = settings.grpc
    return grpc.uds or Tcp(grpc.host, grpc.port, tls.credentials(grpc))


def _options_of_grpc(settings: Settings) -> list[Option]:
    """Connections end after a while, so that callers spread over new replicas. Several processes may share the port."""
    return [
        ("grpc.max_connection_age_ms", _milliseconds(settings.grpc.max_connection_age)),
        ("grpc.max_connection_age_grace_ms", _milliseconds(settings.grpc.max_connection_age_grace)),
        ("grpc.so_reuseport", 1),
    ]


def _milliseconds(seconds: float) -> int:
    """Milliseconds for gRPC; its largest number means no limit, as 0 does in the original."""
    return min(int(seconds * 1000), _FOR_EVER_MS) if seconds > 0 else _FOR_EVER_MS


async def _until_signal(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await main(settings, stop)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--runtime-root", metavar="DIR", help="the configuration is in DIR/config (RUNTIME_ROOT)")
    parser.add_argument("--check", action="store_true", help="check the files of --config-dir and exit")
    parser.add_argument("--config-dir", "-config_dir", type=Path, default=Path("."), metavar="DIR")
    parser.add_argument("--merge-domain-configs", "-merge_domain_configs", action="store_true")
    return parser
