"""A redis-py client for the `REDIS_…` settings: one server, a cluster, or a master that sentinels know."""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import Redis

from gatehouse.redis_client.client import Client, cluster, master, patience
from ratelimit_service.dropin.environment import SettingsError
from ratelimit_service.dropin.settings import RedisServer, RedisTls

_NO_TIMEOUT_S = 24 * 3600.0
_DEFAULT_PORT = 6379
_FORM = "a Redis URL has hosts as host:port or redis://host:port, for SENTINEL after the master's name"


@dataclass(frozen=True, slots=True)
class _Host:
    """One server's address and the options of its URL, which the settings override."""

    name: str
    port: int
    tls: bool
    auth: dict[str, Any]
    database: int


def client(server: RedisServer, tls: RedisTls) -> Client:
    """Connects at first use, and never retries by itself.

    With `server.tls`, or by a `rediss://` URL, over TLS, to sentinels too. Raises `SettingsError` for a `url` that does
    not fit, and for TLS on a unix socket.
    """
    options = _timeouts(server) | _credentials(server.auth) | {"max_connections": server.pool_size or 10}
    if server.type == "SINGLE":
        return _single(server, tls, options)
    master_name, hosts = _hosts(server)
    addresses = [(host.name, host.port) for host in hosts]
    encryption = _encryption(tls) if server.tls or any(host.tls for host in hosts) else {}
    if server.type == "CLUSTER":
        return cluster(addresses, **hosts[0].auth | options | encryption)
    watch = hosts[0].auth | _timeouts(server) | _credentials(server.sentinel_auth) | encryption
    return master(master_name, addresses, watch, **options, **encryption)


def _single(server: RedisServer, tls: RedisTls, options: dict[str, Any]) -> Redis:
    path = _path_of(server)
    if path is None:
        host = _host(server.url)
        options = host.auth | options | (_encryption(tls) if server.tls or host.tls else {})
        return Redis(host=_resolved(server, host.name), port=host.port, db=host.database, **options)
    if server.tls:
        raise SettingsError("REDIS_TLS can't be used with a unix socket: unset it, or set a TCP address")
    if "://" in path:
        single: Redis = Redis.from_url(path, **options)
        return single
    return Redis(unix_socket_path=path, **options)


def _path_of(server: RedisServer) -> str | None:
    """The unix socket, if it is one."""
    if server.url.startswith("unix://") or ("://" not in server.url and server.socket_type == "unix"):
        return server.url
    return None


def _resolved(server: RedisServer, name: str) -> str:
    """For tcp4 and tcp6, an address of that family."""
    family = {"tcp4": socket.AF_INET, "tcp6": socket.AF_INET6}.get(server.socket_type)
    if family is None:
        return name
    try:
        return str(socket.getaddrinfo(name, None, family)[0][4][0])
    except OSError:
        return name  # it may resolve later, to either family


def _hosts(server: RedisServer) -> tuple[str, list[_Host]]:
    """The master's name, for sentinels, and the hosts."""
    name, urls = server.url.partition(",")[::2] if server.type == "SENTINEL" else ("", server.url)
    return name, [_host(url.strip()) for url in urls.split(",")]


def _host(url: str) -> _Host:
    parts = urlsplit(url if "://" in url else f"//{url}")
    try:
        port = parts.port or (_DEFAULT_PORT if parts.scheme else 0)
        query = dict(parse_qsl(parts.query))
        database = int(parts.path.strip("/") or query.get("db") or 0)
    except ValueError:
        raise SettingsError(_FORM) from None
    if parts.scheme not in ("", "redis", "rediss") or not parts.hostname or not port:
        raise SettingsError(_FORM)
    auth = {
        "username": unquote(parts.username or query.get("username", "")),
        "password": unquote(parts.password or query.get("password", "")),
    }
    said = {name: value for name, value in auth.items() if value}
    return _Host(parts.hostname, port, parts.scheme == "rediss", said, database)


def _timeouts(server: RedisServer) -> dict[str, Any]:
    timeout_s = server.timeout if server.timeout > 0 else _NO_TIMEOUT_S
    return patience(timeout_s, timeout_s)


def _credentials(auth: str) -> dict[str, Any]:
    user, colon, password = auth.partition(":")
    if not auth:
        return {}
    return {"username": user, "password": password} if colon else {"password": user}


def _encryption(tls: RedisTls) -> dict[str, Any]:
    return {
        "ssl": True,
        "ssl_certfile": _text(tls.client_cert),
        "ssl_keyfile": _text(tls.client_key),
        "ssl_ca_certs": _text(tls.cacert),
        "ssl_check_hostname": not tls.skip_hostname_verification,
    }


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
