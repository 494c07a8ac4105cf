"""Is this Redis fit to keep counters? Asked when the service starts."""

from redis import exceptions

from gatehouse import redis_info
from gatehouse.redis_client import Client
from gatehouse.redis_info import Finding
from ratelimit_service.redis_calls import unavailable

__all__ = ["Finding", "check"]


async def check(client: Client) -> list[Finding]:
    """What is wrong with the Redis behind `client`, each primary of a cluster included; empty when all is well.

    Raises `StoreUnavailable` when it does not answer.
    """
    try:
        infos = await redis_info.infos(client)
    except exceptions.NoPermissionError:
        return [redis_info.UNCHECKED]
    except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
        raise unavailable(error) from error
    return list(dict.fromkeys(finding for info in infos for finding in redis_info.unfit_to_count(info)))
