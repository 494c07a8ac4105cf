"""Does Redis answer, can it keep counters and keys, and does its clock agree with this machine's?"""

import time

from redis import exceptions

from gatehouse.config.model import Config
from gatehouse.config.problem import ConfigError
from gatehouse.doctor.finding import Finding, error, of_redis, ok, warning
from gatehouse.keys import durability
from gatehouse.redis_client import info
from gatehouse.redis_client.client import Client, connect

ABOUT = "redis"
PATIENCE_S = 2.0
SKEW_S = 2.0
"""Keys expire by this machine's clock and windows move by Redis's: a larger difference is noticeable."""


async def redis(config: Config) -> list[Finding]:
    if config.redis.url is None:
        return [ok(ABOUT, "not used: limits are counted in the memory of one process")]
    try:
        client = connect(config.redis.url, timeout_s=PATIENCE_S, connect_timeout_s=PATIENCE_S)
    except (ConfigError, ValueError) as wrong:
        return [error(ABOUT, str(wrong), "correct redis.url, or what it refers to")]
    try:
        return [*await _fitness(client), await _clock(client), *of_redis("key store", await durability.check(config))]
    except (exceptions.RedisError, exceptions.RedisClusterException, OSError, TimeoutError) as gone:
        fix = "start it, or correct redis.url; until then limits degrade as redis.on_failure says"
        return [error(ABOUT, f"does not answer: {gone or type(gone).__name__}", fix)]
    finally:
        await client.aclose()


async def unusable(config: Config) -> list[Finding]:
    """Why the Redis of `config` can never be used; empty if it can be, or does not answer now."""
    if config.redis.url is None:
        return []
    try:
        client = connect(config.redis.url, timeout_s=PATIENCE_S, connect_timeout_s=PATIENCE_S)
    except (ConfigError, ValueError):
        return []
    try:
        found = (finding for node in await info.infos(client) for finding in info.unfit_to_count(node))
        return of_redis(ABOUT, (finding for finding in found if finding.level == "error"))
    except (exceptions.RedisError, exceptions.RedisClusterException, OSError, TimeoutError):
        return []
    finally:
        await client.aclose()


async def _fitness(client: Client) -> list[Finding]:
    try:
        infos = await info.infos(client)
    except exceptions.NoPermissionError:
        return of_redis(ABOUT, [info.UNCHECKED])
    unfit = of_redis(ABOUT, (finding for node in infos for finding in info.unfit_to_count(node)))
    versions = ", ".join(sorted({str(node["redis_version"]) for node in infos}))
    return unfit or [ok(ABOUT, f"Redis {versions} answers, and keeps what it counts")]


async def _clock(client: Client) -> Finding:
    before = time.time()
    seconds, microseconds = await _time(client)
    return clock(seconds + microseconds / 1e6, before, time.time())


async def _time(client: Client) -> tuple[int, int]:
    answer = await client.time()
    [pair] = answer.values() if isinstance(answer, dict) else [answer]  # a cluster says which node it was
    return pair[0], pair[1]


def clock(redis_says: float, before: float, after: float) -> Finding:
    """`redis_says` is Redis's time, read between `before` and `after`, all in Unix seconds."""
    skew = redis_says - before if redis_says < before else max(0.0, redis_says - after)
    if abs(skew) <= SKEW_S:
        return ok("clock", f"within {SKEW_S:g} s of that of Redis")
    side = "behind" if skew > 0 else "ahead of"
    return warning("clock", f"this machine is {abs(skew):.1f} s {side} Redis", "keep both in time: chrony, or NTP")
