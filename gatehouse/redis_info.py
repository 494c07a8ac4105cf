"""What a Redis says of itself, for those who depend on it.

Everything is read from INFO, which managed Redis services allow where they forbid CONFIG.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from redis.asyncio import RedisCluster

from gatehouse.redis_client import Client


@dataclass(frozen=True, slots=True)
class Finding:
    """`error`: it will not work; `warning`: it may silently stop working; `advice`: it could be safer."""

    level: Literal["error", "warning", "advice"]
    message: str
    fix: str


async def infos(client: Client) -> list[Mapping[str, Any]]:
    """INFO of the server behind `client`, or of each primary of a cluster. Raises redis-py's errors."""
    if isinstance(client, RedisCluster):
        by_node: Mapping[str, Any] = await client.info(target_nodes=RedisCluster.PRIMARIES)
        return [by_node] if "redis_version" in by_node else list(by_node.values())
    return [await client.info()]
