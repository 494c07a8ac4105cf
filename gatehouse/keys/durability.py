"""Will this Redis still have the keys tomorrow? Counters may be lost, keys may not."""

from collections.abc import Iterator, Mapping
from typing import Any

from redis import exceptions

from gatehouse.config.model import Config
from gatehouse.redis_client.client import connect
from gatehouse.redis_client.info import Finding, infos


async def check(config: Config, *, patience_s: float = 2.5) -> list[Finding]:
    """Risks to keys in the Redis of `config`; none if keys are stored elsewhere, or it does not answer."""
    if config.key_store.type != "redis" or config.redis.url is None:
        return []
    client = connect(config.redis.url, timeout_s=patience_s, connect_timeout_s=patience_s)
    try:
        found = [finding for info in await infos(client) for finding in findings(info, await _snapshots(client))]
    except exceptions.NoPermissionError:
        fix = "permit it: ACL SETUSER <user> +info"
        found = [Finding("advice", "whether this Redis keeps keys safe can't be checked: INFO is not allowed", fix)]
    except (exceptions.RedisError, exceptions.RedisClusterException, OSError):
        found = []
    finally:
        await client.aclose()
    return list(dict.fromkeys(found))


def findings(info: Mapping[str, Any], snapshots: bool | None) -> Iterator[Finding]:
    """Risks by the INFO of one server; `snapshots`: whether it takes any, None if unknown."""
    policy = info.get("maxmemory_policy", "noeviction")
    if policy.startswith("allkeys"):
        yield Finding(
            "warning",
            f"maxmemory-policy is {policy}: when memory runs short, Redis may drop every key at once",
            "set maxmemory-policy to noeviction",
        )
    if not info.get("aof_enabled"):
        lost = "every key and revocation" if snapshots is False else "keys and revocations since its last snapshot"
        yield Finding(
            "warning",
            f"appendonly is off: a restart of Redis forgets {lost}",
            "set appendonly to yes (and appendfsync to everysec, or to always so that not even a second is lost)",
        )
    elif info.get("aof_last_write_status", "ok") != "ok":
        yield Finding(
            "warning", "Redis could not write its append-only file", "see its log, and whether the disk is full"
        )


async def _snapshots(client: Any) -> bool | None:
    try:
        return bool((await client.config_get("save")).get("save"))
    except exceptions.RedisError:  # a managed Redis
        return None
