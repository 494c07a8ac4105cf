"""Script calls in one round trip, and the one place where redis-py's errors become ours."""

from collections.abc import Sequence
from typing import Any

from redis import exceptions
from redis.asyncio import RedisCluster

from gatehouse.redis_client import Client
from ratelimit_service.redis_wire import Command
from ratelimit_service.store import FailureKind, StoreUnavailable

Reply = Any

_FAILURES: tuple[tuple[type[Exception] | tuple[type[Exception], ...], FailureKind], ...] = (
    ((exceptions.TimeoutError, TimeoutError), "timeout"),
    (exceptions.BusyLoadingError, "loading"),
    (exceptions.ReadOnlyError, "readonly"),
    (exceptions.OutOfMemoryError, "oom"),
    (exceptions.NoScriptError, "noscript"),
    ((exceptions.ClusterDownError, exceptions.RedisClusterException), "clusterdown"),
    ((exceptions.ConnectionError, OSError), "connection"),
)


def unavailable(error: Exception) -> StoreUnavailable:
    """What an error of redis-py means to us. MISCONF is Redis refusing writes because its disk fails."""
    kind: FailureKind = "readonly" if str(error).startswith("MISCONF") else "other"
    kind = next((kind for types, kind in _FAILURES if isinstance(error, types)), kind)
    return StoreUnavailable(kind, f"{type(error).__name__}: {error}")


async def call(client: Client, commands: Sequence[Command]) -> list[Reply | StoreUnavailable]:
    """Run the scripts, in one round trip if Redis knows them. Never raises: each command has its reply or its failure.

    A script that Redis does not know (a restart, a failover, SCRIPT FLUSH) is sent as text, once.
    """
    replies = await _send(client, [("EVALSHA", command.script.sha, command) for command in commands])
    unknown = [i for i, reply in enumerate(replies) if isinstance(reply, exceptions.NoScriptError)]
    if unknown:
        again = await _send(client, [("EVAL", commands[i].script.source, commands[i]) for i in unknown])
        for i, reply in zip(unknown, again, strict=True):
            replies[i] = reply
    return [unavailable(reply) if isinstance(reply, Exception) else reply for reply in replies]


async def _send(client: Client, calls: Sequence[tuple[str, str, Command]]) -> list[Reply | Exception]:
    pipeline = client.pipeline(transaction=False)
    for verb, script, command in calls:
        pipeline.execute_command(verb, script, len(command.keys), *command.keys, *command.arguments)
    try:
        return await pipeline.execute(raise_on_error=False)
    except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
        if isinstance(client, RedisCluster) and unavailable(error).kind != "timeout":
            await client.aclose()  # a node is gone: the next call asks the others who has its slots
        return [error] * len(calls)
