"""Reads INFO of a Redis and judges whether counters and keys are safe there.

Only INFO is used: managed Redis services allow it where they forbid CONFIG.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from redis.asyncio import RedisCluster

from gatehouse.redis_client.client import Client


@dataclass(frozen=True, slots=True)
class Finding:
    """`error`: it will not work; `warning`: it may silently stop working; `advice`: it could be safer."""

    level: Literal["error", "warning", "advice"]
    message: str
    fix: str


UNCHECKED = Finding(
    "warning",
    "this Redis can't be checked: its user may not call INFO",
    "permit it: ACL SETUSER <user> +info",
)

OLDEST = 7
"""The first Redis that rejects a whole script when it is out of memory (`#!lua` scripts)."""


async def infos(client: Client) -> list[Mapping[str, Any]]:
    """INFO of the server behind `client`, or of each primary of a cluster. Raises redis-py's errors."""
    if isinstance(client, RedisCluster):
        by_node: Mapping[str, Any] = await client.info(target_nodes=RedisCluster.PRIMARIES)
        return [by_node] if "redis_version" in by_node else list(by_node.values())
    return [await client.info()]


def unfit_to_count(info: Mapping[str, Any]) -> Iterator[Finding]:
    """Why a server can't keep counters, judged by its INFO (https://redis.io/docs/latest/commands/info/)."""
    version = str(info["redis_version"])
    if int(version.partition(".")[0]) < OLDEST:
        fix = f"upgrade to Redis {OLDEST}.0 or newer"
        yield Finding("error", f"Redis {version} is too old for the scripts of limits", fix)
    if info.get("role") == "slave":
        yield Finding(
            "error",
            "this Redis is a replica, which rejects writes",
            "let redis.url name the primary, or the sentinels: redis+sentinel://host:port/master",
        )
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield Finding(
            "warning",
            f"maxmemory-policy is {policy}: when memory runs short, Redis evicts counters, and limits start from 0",
            "set maxmemory-policy to noeviction: limits then degrade as redis.on_failure says, and metrics report it",
        )
    if not info.get("aof_enabled"):
        yield Finding(
            "advice",
            "appendonly is off: a restart of Redis loses the counts since its last snapshot",
            "set appendonly to yes (and appendfsync to everysec): a restart then loses at most a second of counts",
        )
