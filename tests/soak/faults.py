"""What goes wrong, one row each: what is done and undone, what callers may hear meanwhile, and for how long after.

Ids are those of the promises that docs/reliability.md lists.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import redis
import yaml

from testkit.stopping import stopped
from tests.faults.hogs import hogs
from tests.soak.callers import REVOCABLE, key
from tests.soak.ledger import LOST, TWICE, UNCOUNTED, UNRECORDED
from tests.soak.model import TORRENT
from tests.soak.stage import Stage, kill

READERS, HOG_S, REVOKED_S = 200, 30, 10
UNAVAILABLE = frozenset({"503"})
RESET = frozenset({"refused", "disconnected", "cut"})
NOTHING: frozenset[str] = frozenset()

Act = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """`allowed` beside what is normal, from its beginning until `recover_s` after its end.

    `only`: what its users must hear from `takes_s` after its beginning until its end.
    """

    name: str
    act: Act
    allowed: frozenset[str] = NOTHING
    recover_s: float = 3.0
    only: Mapping[str, str] = field(default_factory=dict)
    takes_s: float = 2.0


def killed(service: str, number: int = signal.SIGKILL, *, one: bool = False) -> Act:
    async def act(stage: Stage) -> None:
        kill(stage.pids(service)[: 1 if one else None], number)
        await asyncio.sleep(3)

    return act


def hangs(service: str, for_s: float, *, one: bool = False) -> Act:
    async def act(stage: Stage) -> None:
        with stopped(stage.pids(service)[: 1 if one else None]):
            await asyncio.sleep(for_s)

    return act


def named_killed(*names: str) -> Act:
    async def act(stage: Stage) -> None:
        children = stage.gateway.children()
        kill([children[name] for name in names if name in children])
        await asyncio.sleep(3)

    return act


async def redis_killed(stage: Stage) -> None:
    stage.redis.kill()
    await asyncio.sleep(5)
    stage.redis.start()


async def redis_hangs(stage: Stage) -> None:
    with stopped([stage.redis.pid]):
        await asyncio.sleep(10)


def _redis(stage: Stage) -> redis.Redis:
    url = yaml.safe_load(stage.config_file.read_text())["redis"]["url"]
    return redis.Redis(port=urlsplit(url).port or 0, socket_timeout=10)


async def redis_full(stage: Stage) -> None:
    server = _redis(stage)
    server.config_set("maxmemory-policy", "noeviction")
    server.config_set("maxmemory", 1)
    try:
        await asyncio.sleep(8)
    finally:
        server.config_set("maxmemory", 0)


async def redis_flushed(stage: Stage) -> None:
    _redis(stage).flushall()
    await asyncio.sleep(3)


async def model_down(stage: Stage) -> None:
    stage.model.kill()
    await asyncio.sleep(5)
    stage.model.start()
    await asyncio.sleep(1)


async def model_killed(stage: Stage) -> None:
    stage.model.kill()
    stage.model.start()
    await asyncio.sleep(2)


async def model_stalls(stage: Stage) -> None:
    with stopped([stage.model.pid]):
        await asyncio.sleep(6)


async def taken_over(stage: Stage) -> None:
    await asyncio.to_thread(stage.replace_gateway)


async def edited(stage: Stage) -> None:
    for _ in range(3):
        stage.edit()
        await asyncio.sleep(2.5)


async def edited_badly(stage: Stage) -> None:
    good = stage.config_file.read_text()
    for bad in ("models: [", good + "nonsense: true\n", good.replace("requests_per_minute", "requests_per_minuet")):
        stage.write(bad)
        await asyncio.sleep(2)
    stage.write(good)


async def half_written(stage: Stage) -> None:
    whole = stage.config_file.read_text()
    for _ in range(3):
        with stage.config_file.open("w") as out:
            out.write(whole[: len(whole) // 2])
            out.flush()
            await asyncio.sleep(0.4)
            out.write(whole[len(whole) // 2 :])
        await asyncio.sleep(2)


async def revoked(stage: Stage) -> None:
    stage.write_keys(revoked=True)
    await asyncio.sleep(REVOKED_S)
    stage.write_keys(revoked=False)


async def logs_removed(stage: Stage) -> None:
    shutil.rmtree(stage.logs)
    await asyncio.sleep(5)


async def logs_renamed(stage: Stage) -> None:
    """What was renamed is removed, so that a long run fills no disk."""
    moved = [path.rename(f"{path}.1") for path in stage.logs.glob("*.log")]
    await asyncio.sleep(5)
    for path in moved:
        path.unlink()


async def logs_cut(stage: Stage) -> None:
    """What stands in them is read before, in place of a copy that would be thrown away."""
    for path in stage.logs.glob("*.log"):
        stage.read()
        os.truncate(path, 0)
    await asyncio.sleep(5)


async def logs_unreadable(stage: Stage) -> None:
    stage.logs.chmod(0)
    try:
        kill(stage.pids("accesslog")[:1])
        await asyncio.sleep(8)
    finally:
        stage.logs.chmod(0o750)


async def disk_full(stage: Stage) -> None:
    if not stage.disk.is_mount():
        return
    used = os.statvfs(stage.disk)
    taken_kib = (used.f_blocks - used.f_bfree) * used.f_frsize // 1024 + 64
    whole_kib = used.f_blocks * used.f_frsize // 1024
    _resized(stage, taken_kib)
    try:
        await asyncio.sleep(10)
    finally:
        _resized(stage, whole_kib)


def _resized(stage: Stage, kib: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kib}k", str(stage.disk)], check=True)


async def signalled(stage: Stage) -> None:
    children = stage.gateway.children()
    others = [pid for name, pid in children.items() if name != "envoy" and "-" in name]
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        kill([stage.gateway.process.pid, *others], number)
        await asyncio.sleep(2)


async def starved(stage: Stage) -> None:
    with hogs():
        await asyncio.sleep(HOG_S)


async def read_by_nobody(stage: Stage) -> None:
    body = b'{"model":"%b","stream":true,"messages":[{"role":"user","content":"hi"}]}' % TORRENT.encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key('open')}\r\n"
    head += f"User-Agent: reader\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(READERS):
            reader = stack.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.setblocking(False)
            await asyncio.get_running_loop().sock_connect(reader, ("127.0.0.1", urlsplit(stage.gateway.url).port))
            await asyncio.get_running_loop().sock_sendall(reader, head.encode() + body)
        await asyncio.sleep(20)


_LIMITER = frozenset({UNCOUNTED})
_SERVED = UNAVAILABLE | _LIMITER
_GONE = frozenset({TWICE})
"""Reconciliation restores what Envoy's log has and the request log has no longer."""

FAULTS: Sequence[Fault] = (
    Fault("F01 a worker of authz is killed", killed("authz", one=True)),
    Fault("F01 all workers of authz are killed", killed("authz"), UNAVAILABLE),
    Fault("F03 all workers of authz get SIGTERM", killed("authz", signal.SIGTERM), UNAVAILABLE),
    Fault("F04 a worker of authz hangs for 5 s", hangs("authz", 5, one=True)),
    Fault("F04 all workers of authz hang for 5 s", hangs("authz", 5), UNAVAILABLE),
    Fault("F05 a worker of ratelimit is killed", killed("ratelimit", one=True), _LIMITER),
    Fault("F05 all workers of ratelimit are killed", killed("ratelimit"), _LIMITER),
    Fault("F05 all workers of ratelimit get SIGTERM", killed("ratelimit", signal.SIGTERM), _LIMITER),
    Fault("F06 a worker of ratelimit hangs for 5 s", hangs("ratelimit", 5, one=True), _LIMITER),
    Fault("F06 all workers of ratelimit hang for 8 s", hangs("ratelimit", 8), _SERVED),
    Fault("F07 a receiver of logs is killed", killed("accesslog", one=True)),
    Fault("F07 all receivers of logs are killed", killed("accesslog")),
    Fault("F08 all receivers of logs get SIGTERM", killed("accesslog", signal.SIGTERM)),
    Fault("F09 a receiver of logs hangs for 10 s", hangs("accesslog", 10, one=True)),
    Fault("F09 all receivers of logs hang for 10 s", hangs("accesslog", 10)),
    Fault("F27 the process that workers are copies of is killed", named_killed("prefork", "prefork")),
    Fault("F10 Redis is killed and back after 5 s", redis_killed, _LIMITER, 5),
    Fault("F11 Redis hangs for 10 s", redis_hangs, _LIMITER, 5),
    Fault("F13 Redis is full for 8 s", redis_full, _LIMITER, 5),
    Fault("Redis is flushed empty", redis_flushed, _LIMITER, 5),
    Fault("F20 the model server is away for 5 s", model_down, UNAVAILABLE | RESET, 5),
    Fault("F21 the model server is killed amid streams", model_killed, UNAVAILABLE | {"cut"}, 5),
    Fault("F22 the model server stalls for 6 s", model_stalls, UNAVAILABLE, 5),
    Fault("F26 Envoy is killed", named_killed("envoy"), RESET | UNAVAILABLE | {UNRECORDED}, 3),
    Fault("F25 a second gateway takes over (hot restart)", taken_over, recover_s=8),
    Fault("C01 good edits of the configuration", edited),
    Fault("C01 bad edits of the configuration", edited_badly),
    Fault("C01 the configuration is written in two halves", half_written),
    Fault("F42 a key is revoked", revoked, frozenset({f"{REVOCABLE} 401"}), 3, {REVOCABLE: "401"}),
    Fault("logs are removed", logs_removed, _GONE, 60),
    Fault("logs are renamed", logs_renamed, _GONE, 60),
    Fault("logs are copied and cut", logs_cut, _GONE, 60),
    Fault("logs can not be entered, and a receiver dies", logs_unreadable),
    Fault("the disk of the logs is full for 10 s", disk_full, frozenset({LOST, TWICE}), 5),
    Fault("SIGHUP, SIGUSR1, SIGUSR2 to everybody", signalled),
    Fault("two processes want all of the CPU for 30 s", starved, UNAVAILABLE),
    Fault("200 readers read nothing for 20 s", read_by_nobody, recover_s=10),
)
