"""Calls scripts on one Redis or on a cluster, and translates redis-py's errors into `StoreUnavailable`."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from redis import exceptions
from redis.asyncio import RedisCluster
from redis.asyncio.connection import AbstractConnection

from gatehouse.redis_client.client import Client
from ratelimit_service.store.port import FailureKind, StoreUnavailable
from ratelimit_service.store.redis.line import Reply
from ratelimit_service.store.redis.pipe import Pipe
from ratelimit_service.store.redis.wire import Command

_FAILURES: tuple[tuple[type[Exception] | tuple[type[Exception], ...], FailureKind], ...] = (
    ((exceptions.TimeoutError, TimeoutError), "timeout"),
    (exceptions.BusyLoadingError, "loading"),
    (exceptions.ReadOnlyError, "readonly"),
    (exceptions.OutOfMemoryError, "oom"),
    (exceptions.NoScriptError, "noscript"),
    ((exceptions.ClusterDownError, exceptions.RedisClusterException), "clusterdown"),
    ((exceptions.ConnectionError, OSError), "connection"),
)
_DEFAULT_PATIENCE_S = 1.0


def unavailable(error: Exception) -> StoreUnavailable:
    """Translates an error of redis-py. MISCONF means that Redis refuses writes because its disk fails."""
    kind: FailureKind = "readonly" if str(error).startswith("MISCONF") else "other"
    kind = next((kind for types, kind in _FAILURES if isinstance(error, types)), kind)
    return StoreUnavailable(kind, f"{type(error).__name__}: {error}")


class Calls:
    """Runs scripts through one pipe per server. Uses the client's settings and its list of servers, and closes it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._pipes: dict[str, Pipe] = {}

    @property
    def answers(self) -> int:
        """The number of replies received."""
        return sum(pipe.answers for pipe in self._pipes.values())

    async def run(self, command: Command) -> Reply:
        """The script's reply. Raises `StoreUnavailable`.

        A script that Redis does not know (a restart, a failover, SCRIPT FLUSH) is sent as text, once.
        """
        try:
            try:
                return await self._send(command, "EVALSHA", command.script.sha)
            except exceptions.NoScriptError:
                return await self._send(command, "EVAL", command.script.source)
        except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
            raise unavailable(error) from None

    async def run_all(self, commands: Iterable[Command]) -> list[Reply]:
        """The replies to `commands`, in one round trip. Raises `StoreUnavailable` if one fails, when all are done."""
        replies = await asyncio.gather(*map(self.run, commands), return_exceptions=True)
        failures = [reply for reply in replies if isinstance(reply, BaseException)]
        if failures:
            raise failures[0]
        return replies

    async def close(self) -> None:
        for pipe in self._pipes.values():
            await pipe.close()
        await self._client.aclose()

    def _send(self, command: Command, verb: str, script: str) -> Awaitable[Reply]:
        words = (verb, script, len(command.keys), *command.keys, *command.arguments)
        if isinstance(self._client, RedisCluster):
            return self._send_in_cluster(self._client, command, words)
        pool = self._client.connection_pool
        return self._pipe("", pool.connection_class, pool.connection_kwargs).call(*words)

    async def _send_in_cluster(self, cluster: RedisCluster, command: Command, words: tuple[Any, ...]) -> Reply:
        """Send to the node that has the keys. If the cluster says it is another, or its nodes aren't known, redis-py
        finds it, and remembers it for the next call."""
        try:
            await cluster.initialize()
            node = cluster.get_node_from_key(command.keys[0])
            if node is None:
                return await cluster.execute_command(*words)
            return await self._pipe(node.name, node.connection_class, node.connection_kwargs).call(*words)
        except (exceptions.MovedError, exceptions.AskError, exceptions.TryAgainError):
            return await cluster.execute_command(*words)
        except (exceptions.ConnectionError, OSError, exceptions.ClusterDownError):
            await cluster.aclose()  # a node is down: the next call asks the others which one has its slots
            raise

    def _pipe(self, name: str, kind: Callable[..., AbstractConnection], settings: dict[str, Any]) -> Pipe:
        pipe = self._pipes.get(name)
        if pipe is None:
            patience_s = settings.get("socket_timeout") or _DEFAULT_PATIENCE_S
            untimed = {**settings, "socket_timeout": None}  # the pipe has one time-out for all calls
            pipe = self._pipes[name] = Pipe(lambda: kind(**untimed), patience_s)
        return pipe
