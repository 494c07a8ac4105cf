"""Checks whether a Redis is fit to keep counters, when the service starts."""

from redis import exceptions

from gatehouse.redis_client import info
from gatehouse.redis_client.client import Client
from gatehouse.redis_client.info import Finding
from ratelimit_service.store.redis.calls import unavailable

__all__ = ["Finding", "check"]


async def check(client: Client) -> list[Finding]:
    """Problems of the Redis behind `client`, of every primary in a cluster; empty if there are none.

    Raises `StoreUnavailable` when it does not answer.
    """
    try:
        infos = await info.infos(client)
    except exceptions.NoPermissionError:
        return [info.UNCHECKED]
    except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
        raise unavailable(error) from error
    return list(dict.fromkeys(finding for node in infos for finding in info.unfit_to_count(node)))
