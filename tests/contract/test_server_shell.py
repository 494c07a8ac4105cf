"""The shell that every service runs in, spoken to by a real gRPC client over its unix socket."""

import asyncio
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
import uvloop
from grpc import aio

from gatehouse.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse
from gatehouse.rpc.server import serve
from gatehouse.rpc.service import MAX_MESSAGE_BYTES, ClientStream, Code, Context, Service, Unary
from gatehouse.rpc.tcp import Tcp
from testkit.ports import free_port

pytestmark = pytest.mark.asyncio


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    """The services run on uvloop; what depends on either is a mistake."""
    policy: asyncio.AbstractEventLoopPolicy = request.param()
    return policy


ECHO, COUNT, HEALTH = "/test.Echo/Say", "/test.Echo/Count", "/grpc.health.v1.Health/Check"
SERVING = HealthCheckResponse.ServingStatus.SERVING
NOT_SERVING = HealthCheckResponse.ServingStatus.NOT_SERVING


@dataclass
class Shell:
    """A running shell. While `go` is not set, calls that were begun wait; `begun` counts them."""

    socket: Path
    go: asyncio.Event = field(default_factory=asyncio.Event)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    service: Service = field(init=False)
    task: "asyncio.Task[None]" = field(init=False)

    def __post_init__(self) -> None:
        say = Unary(self._say, decode=bytes, encode=bytes)
        count = ClientStream(self._count, decode=bytes, encode=bytes)
        fail = Unary(self._fail, decode=bytes, encode=bytes)
        refuse = Unary(self._refuse, decode=bytes, encode=bytes)
        self.service = Service({"test.Echo": {"Say": say, "Count": count, "Fail": fail, "Refuse": refuse}})

    async def _say(self, request: bytes, _context: Context) -> bytes:
        self.begun.release()
        await self.go.wait()
        return request

    async def _fail(self, _request: bytes, _context: Context) -> bytes:
        raise LookupError("what only the operator should see")

    async def _refuse(self, request: bytes, context: Context) -> bytes:
        await context.abort(Code.INVALID_ARGUMENT, request.decode())

    async def _count(self, requests: AsyncIterator[bytes], _context: Context) -> bytes:
        sizes = []
        async for request in requests:
            sizes.append(len(request))
            self.begun.release()
        return str(sizes).encode()


@asynccontextmanager
async def running(socket: Path, grace_s: float = 5.0) -> AsyncIterator[tuple[Shell, aio.Channel]]:
    shell = Shell(socket)
    shell.go.set()
    shell.task = asyncio.create_task(serve(shell.service, socket, shell.stop, grace_s))
    try:
        await until_serving(shell)
        options = [("grpc.max_receive_message_length", -1)]
        async with aio.insecure_channel(f"unix:{socket}", options) as channel:
            yield shell, channel
    finally:
        shell.stop.set()
        async with asyncio.timeout(10):
            await shell.task


async def until_serving(shell: Shell) -> None:
    async with asyncio.timeout(10):
        while not shell.service.health.serving:
            assert not shell.task.done(), shell.task.exception()
            await asyncio.sleep(0.005)


async def say(channel: aio.Channel, text: bytes, method: str = ECHO) -> bytes:
    call: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
    return await call(text, timeout=10)


async def refusal(channel: aio.Channel, text: bytes, method: str = ECHO) -> grpc.StatusCode:
    with pytest.raises(aio.AioRpcError) as refused:
        await say(channel, text, method)
    return refused.value.code()


async def health(channel: aio.Channel) -> int:
    answer = await say(channel, HealthCheckRequest().SerializeToString(), HEALTH)
    return HealthCheckResponse.FromString(answer).status


async def test_methods_answer_by_their_full_names(tmp_path: Path) -> None:
    async with running(tmp_path / "s.sock") as (_, channel):
        assert await say(channel, b"hello") == b"hello"
        call: aio.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(COUNT)
        assert await call(iter([b"a", b"bb", b""])) == b"[1, 2, 0]"


@pytest.mark.parametrize("method", ["/test.Echo/Other", "/test.Other/Say", "/grpc.reflection.v1.ServerReflection/X"])
async def test_an_unknown_method_is_unimplemented(tmp_path: Path, method: str) -> None:
    async with running(tmp_path / "s.sock") as (_, channel):
        assert await refusal(channel, b"", method) is grpc.StatusCode.UNIMPLEMENTED


async def test_f45_a_message_that_envoy_would_not_send_is_refused_unread(tmp_path: Path) -> None:
    async with running(tmp_path / "s.sock") as (shell, channel):
        assert await refusal(channel, b"x" * (MAX_MESSAGE_BYTES + 1)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert shell.begun.locked()
        assert len(await say(channel, b"x" * MAX_MESSAGE_BYTES)) == MAX_MESSAGE_BYTES


async def test_owner_and_group_alone_may_speak_to_it(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        async with running(tmp_path / "deep" / "s.sock") as (shell, _):
            mode = shell.socket.stat().st_mode
    finally:
        os.umask(mask)
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660


async def test_a_socket_that_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert path.exists()
    async with running(path) as (_, channel):
        assert await say(channel, b"here") == b"here"


async def test_the_socket_is_gone_in_the_end(tmp_path: Path) -> None:
    async with running(tmp_path / "s.sock") as (shell, _):
        assert shell.socket.exists()
    assert not shell.socket.exists()


async def test_a_place_where_no_socket_can_be_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="can't listen on"):
        await serve(Service({}), tmp_path / ("x" * 200), asyncio.Event(), 0)


async def draining(shell: Shell) -> None:
    shell.stop.set()
    async with asyncio.timeout(5):
        while shell.service.health.serving:
            await asyncio.sleep(0.005)


async def test_health_is_serving_until_it_drains(tmp_path: Path) -> None:
    async with running(tmp_path / "s.sock") as (shell, channel):
        assert await health(channel) == SERVING
        await draining(shell)
        assert (await shell.service.health.check(None, None)).status == NOT_SERVING  # type: ignore[arg-type]


async def test_a_call_that_runs_is_finished_and_a_new_one_finds_nobody(tmp_path: Path) -> None:
    async with running(tmp_path / "s.sock") as (shell, channel):
        shell.go.clear()
        waiting = asyncio.create_task(say(channel, b"begun"))
        await shell.begun.acquire()
        await draining(shell)
        assert await refusal(channel, b"late") is grpc.StatusCode.UNAVAILABLE
        assert not shell.task.done()
        shell.go.set()
        assert await waiting == b"begun"


async def test_a_stream_that_runs_is_read_to_its_end(tmp_path: Path) -> None:
    async with running(tmp_path / "s.sock") as (shell, channel):
        multi: aio.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(COUNT)
        call = multi()
        await call.write(b"a")
        await shell.begun.acquire()
        await draining(shell)
        await call.write(b"bb")
        await call.done_writing()
        assert await call == b"[1, 2]"


async def test_what_takes_longer_than_the_grace_is_cut(tmp_path: Path) -> None:
    async with running(tmp_path / "s.sock", grace_s=0.05) as (shell, channel):
        shell.go.clear()
        waiting = asyncio.create_task(refusal(channel, b"for ever"))
        await shell.begun.acquire()
        shell.stop.set()
        assert await waiting in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


async def test_a_method_that_fails_fails_its_own_call_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # gRPC tells of the failure at length
    async with running(tmp_path / "s.sock") as (_, channel):
        assert await refusal(channel, b"x", "/test.Echo/Fail") is grpc.StatusCode.UNKNOWN
        assert await say(channel, b"still here") == b"still here"


@pytest.mark.parametrize("said", ["plain", "100 % größer\n", "x" * 126, "x" * 127, "y" * 1000], ids=len)
async def test_a_refusal_says_why_in_any_text(tmp_path: Path, said: str) -> None:
    async with running(tmp_path / "s.sock") as (_, channel):
        with pytest.raises(aio.AioRpcError) as refused:
            await say(channel, said.encode(), "/test.Echo/Refuse")
        assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, said)


async def test_a_refusal_that_never_ends_says_its_beginning(tmp_path: Path) -> None:
    async with running(tmp_path / "s.sock") as (_, channel):
        with pytest.raises(aio.AioRpcError) as refused:
            await say(channel, b"z" * 100_000, "/test.Echo/Refuse")
        assert set(refused.value.details() or "") == {"z"}


async def test_it_answers_on_tcp_too_and_shares_its_port_with_nobody() -> None:
    address, service, stop = Tcp("127.0.0.1", free_port()), Service({}), asyncio.Event()
    task = asyncio.create_task(serve(service, address, stop, 0))
    async with asyncio.timeout(10), aio.insecure_channel(str(address)) as channel:
        while not service.health.serving:
            await asyncio.sleep(0.005)
        assert await health(channel) == SERVING
        with pytest.raises(OSError, match=f"can't listen on {address}"):
            await serve(Service({}), address, stop, 0)
        stop.set()
        await task
