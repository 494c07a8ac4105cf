"""A redis-py client for a URL: one server, a cluster, or a master known to sentinels."""

import socket
from collections.abc import Iterable
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from gatehouse.config.secret import resolve

Client = Redis | RedisCluster

_UNACKNOWLEDGED_MS = 5_000
_KEPT_ALIVE: dict[str, Any] = (
    {"socket_keepalive": True, "socket_keepalive_options": {socket.TCP_USER_TIMEOUT: _UNACKNOWLEDGED_MS}}
    if hasattr(socket, "TCP_USER_TIMEOUT")
    else {}
)
"""A connection lasts as long as the remote host acknowledges data (RFC 5482): a slow Redis is not mistaken for a dead
host."""

_SINGLE = ("redis", "rediss", "unix")
_CLUSTER = ("redis+cluster", "rediss+cluster")
_SENTINEL = ("redis+sentinel", "rediss+sentinel")


def connect(url: str, *, timeout_s: float = 0.01, connect_timeout_s: float = 0.1, connections: int = 8) -> Client:
    """A client that fails after `timeout_s` without a reply, and never retries by itself. Connects on first use.

    URLs: `redis://[user:password@]host:port/db`, `rediss://` (TLS), `unix://path`; over several hosts
    `redis+cluster://host:port,host:port` and `redis+sentinel://host:port,host:port/master/db` (`rediss+…`: TLS), where
    user and password are those of the data nodes. Raises `ValueError` for any other. `env:NAME` and `file:PATH` name
    where a URL is stored; raises `ConfigError` if there is none.
    """
    if url.startswith(("env:", "file:")):
        url = resolve(url, "redis.url").decode()
    parts = urlsplit(url)
    alive = {} if parts.scheme == "unix" else _KEPT_ALIVE
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": connect_timeout_s,
        "max_connections": connections,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # avoids the HELLO exchange; the scripts return integers, which are the same in RESP3
        **alive,
    }
    if parts.scheme in _SINGLE:
        return Redis.from_url(url, **options)
    if parts.scheme in _CLUSTER:
        return cluster(_hosts(parts, 6379), **options, **_credentials(parts))
    if parts.scheme in _SENTINEL:
        return _sentinels(parts, options)
    schemes = ", ".join(f"{scheme}://" for scheme in (*_SINGLE, *_CLUSTER, *_SENTINEL))
    raise ValueError(f"a Redis URL begins with one of {schemes}")


def patience(timeout_s: float, connect_timeout_s: float) -> dict[str, Any]:
    """How long a client waits, and that it never retries by itself. RESP2 spares the HELLO exchange; scripts answer
    integers, which are the same in RESP3."""
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": connect_timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }


def cluster(hosts: Iterable[tuple[str, int]], **options: Any) -> RedisCluster:
    """The cluster that `hosts` belong to."""
    return RedisCluster(startup_nodes=[ClusterNode(host, port) for host, port in hosts], **options)


def master(name: str, hosts: Iterable[tuple[str, int]], watch: dict[str, Any], **options: Any) -> Redis:
    """The server that the sentinels on `hosts`, asked with the options `watch`, call the master of `name`."""
    sentinel = Sentinel(list(hosts), sentinel_kwargs=watch)  # type: ignore[no-untyped-call] # as redis-py has it
    found: Redis = sentinel.master_for(name, **options)
    return found


def _sentinels(parts: SplitResult, options: dict[str, Any]) -> Redis:
    name, _, database = parts.path.strip("/").partition("/")
    if not name:
        raise ValueError("a sentinel URL names the master after the hosts: redis+sentinel://host:port/master")
    watch = patience(options["socket_timeout"], options["socket_connect_timeout"])
    return master(name, _hosts(parts, 26379), watch, db=int(database or 0), **options, **_credentials(parts))


def _hosts(parts: SplitResult, default_port: int) -> list[tuple[str, int]]:
    hosts = [host.rpartition(":") for host in parts.netloc.rpartition("@")[2].split(",")]
    try:
        return [(name, int(port)) if name else (port, default_port) for name, _, port in hosts]
    except ValueError:
        raise ValueError("the hosts of a Redis URL are written host:port,host:port") from None


def _credentials(parts: SplitResult) -> dict[str, Any]:
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    return {
        "username": unquote(user) or None,
        "password": unquote(password) or None,
        "ssl": parts.scheme.startswith("rediss"),
    }
