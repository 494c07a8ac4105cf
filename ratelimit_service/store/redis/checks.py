"""Is this Redis fit to keep counters? Asked when the service starts."""

from redis import exceptions

from gatehouse.redis_client import info
from gatehouse.redis_client.client import Client
from gatehouse.redis_client.info import Finding
from ratelimit_service.store.redis.calls import unavailable

__all__ = ["Finding", "check"]


async def check(client: Client) -> list[Finding]:
    """What is wrong with the Redis behind `client`, each primary of a cluster included; empty when all is well.

    Raises `StoreUnavailable` when it does not answer.
    """
    try:
        infos = await info.infos(client)
    except exceptions.NoPermissionError:
        return [info.UNCHECKED]
    except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
        raise unavailable(error) from error
    return list(dict.fromkeys(finding for node in infos for finding in info.unfit_to_count(node)))
