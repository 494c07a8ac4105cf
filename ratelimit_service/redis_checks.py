"""Is this Redis fit to keep counters? Questions for the start of the service and for `gatehouse doctor`."""

from collections.abc import Iterator, Mapping
from typing import Any

from redis import exceptions

from gatehouse import redis_info
from gatehouse.redis_client import Client
from gatehouse.redis_info import Finding
from ratelimit_service.redis_calls import unavailable

__all__ = ["Finding", "check", "findings"]

OLDEST = 7
"""The first Redis that refuses a script as a whole when it is out of memory (`#!lua` scripts)."""


async def check(client: Client) -> list[Finding]:
    """What is wrong with the Redis behind `client`, each primary of a cluster included; empty when all is well.

    Raises `StoreUnavailable` when it does not answer.
    """
    try:
        infos = await redis_info.infos(client)
    except exceptions.NoPermissionError:
        fix = "permit it: ACL SETUSER <user> +info"
        return [Finding("warning", "this Redis can't be checked: its user may not call INFO", fix)]
    except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
        raise unavailable(error) from error
    return list(dict.fromkeys(finding for info in infos for finding in findings(info)))


def findings(info: Mapping[str, Any]) -> Iterator[Finding]:
    """What the fields of one server's INFO give away (https://redis.io/docs/latest/commands/info/)."""
    version = str(info["redis_version"])
    if int(version.partition(".")[0]) < OLDEST:
        fix = f"upgrade to Redis {OLDEST}.0 or newer"
        yield Finding("error", f"Redis {version} is too old for the scripts of limits", fix)
    if info.get("role") == "slave":
        yield Finding(
            "error",
            "this Redis is a replica and refuses to count",
            "let redis.url name the primary, or the sentinels: redis+sentinel://host:port/master",
        )
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield Finding(
            "warning",
            f"maxmemory-policy is {policy}: when memory runs short, Redis drops counters and their limits start afresh",
            "set maxmemory-policy to noeviction: limits then degrade as redis.on_failure says, and metrics tell",
        )
    if not info.get("aof_enabled"):
        yield Finding(
            "advice",
            "appendonly is off: a restart of Redis forgets what was counted since its last snapshot",
            "set appendonly to yes (and appendfsync to everysec): a restart then costs at most a second of counting",
        )
