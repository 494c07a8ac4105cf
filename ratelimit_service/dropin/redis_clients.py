"""A redis-py client for the `REDIS_…` settings: one server, a cluster, or a master that sentinels know."""

from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from gatehouse.redis_client import Client
from ratelimit_service.dropin.environment import SettingsError
from ratelimit_service.dropin.settings import RedisServer, RedisTls


def client(server: RedisServer, tls: RedisTls) -> Client:
    """Connects at first use, and never retries by itself. Raises `SettingsError` for a `url` that does not fit."""
    options = _timeouts(server) | _credentials(server.auth) | {"max_connections": server.pool_size}
    encryption = _encryption(tls) if server.tls else {}
    match server.type:
        case "CLUSTER":
            return RedisCluster(
                startup_nodes=[ClusterNode(*host) for host in _hosts(server.url)], **options, **encryption
            )
        case "SENTINEL":
            return _master(server, options | encryption)
        case "SINGLE":
            return _single(server, options, encryption)


def _single(server: RedisServer, options: dict[str, Any], encryption: dict[str, Any]) -> Redis:
    if "://" in server.url:
        single: Redis = Redis.from_url(server.url, **options)
        return single
    if server.socket_type == "unix":
        return Redis(unix_socket_path=server.url, **options)
    (host, port), *_ = _hosts(server.url)
    return Redis(host=host, port=port, **options, **encryption)


def _master(server: RedisServer, options: dict[str, Any]) -> Redis:
    name, _, hosts = server.url.partition(",")
    watch = _timeouts(server) | _credentials(server.sentinel_auth)
    sentinel = Sentinel(_hosts(hosts), sentinel_kwargs=watch)  # type: ignore[no-untyped-call] # as redis-py has it
    master: Redis = sentinel.master_for(name, **options)
    return master


def _hosts(text: str) -> list[tuple[str, int]]:
    hosts = [host.strip().rpartition(":") for host in text.split(",")]
    if not all(name and port.isdigit() for name, _, port in hosts):
        raise SettingsError("a Redis URL has hosts as host:port,host:port, for SENTINEL after the master's name")
    return [(name, int(port)) for name, _, port in hosts]


def _timeouts(server: RedisServer) -> dict[str, Any]:
    return {
        "socket_timeout": server.timeout,
        "socket_connect_timeout": server.timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }


def _credentials(auth: str) -> dict[str, Any]:
    user, colon, password = auth.partition(":")
    if not auth:
        return {}
    return {"username": user, "password": password} if colon else {"password": user}


def _encryption(tls: RedisTls) -> dict[str, Any]:
    return {
        "ssl": True,
        "ssl_certfile": _path(tls.client_cert),
        "ssl_keyfile": _path(tls.client_key),
        "ssl_ca_certs": _path(tls.cacert),
        "ssl_check_hostname": not tls.skip_hostname_verification,
    }


def _path(path: object) -> str | None:
    return None if path is None else str(path)
