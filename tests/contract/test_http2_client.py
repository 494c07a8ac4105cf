"""Our own client of gRPC gets what it asks for, from our own servers and from grpcio's."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
import uvloop
from grpc import aio

from gatehouse.rpc.http2.client import CallFailedError, Client
from gatehouse.rpc.http2.unix import Listener
from gatehouse.rpc.service import Code, Context, Unary

pytestmark = pytest.mark.asyncio

SAY, REFUSE, WAIT, NONE = "/test.Echo/Say", "/test.Echo/Refuse", "/test.Echo/Wait", "/test.Echo/None"
LARGE = bytes(range(256)) * 8_000
"""2 MB: more than any window at first."""


async def _say(request: bytes, _context: Context) -> bytes:
    return request


async def _refuse(_request: bytes, context: Context) -> bytes:
    await context.abort(Code.UNAVAILABLE, "not now")


async def _wait(request: bytes, _context: Context) -> bytes:
    await asyncio.sleep(1)
    return request


@asynccontextmanager
async def ours(socket: Path) -> AsyncIterator[None]:
    methods = {SAY: _say, REFUSE: _refuse, WAIT: _wait}
    listener = Listener({path: Unary(call, bytes, bytes) for path, call in methods.items()})
    await listener.bind(socket)
    yield
    await listener.close(0.5)


@asynccontextmanager
async def grpcio(socket: Path) -> AsyncIterator[None]:
    async def refuse(_request: bytes, context: "aio.ServicerContext[Any, Any]") -> bytes:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")

    methods: dict[str, Callable[..., Awaitable[bytes]]] = {"Say": _say, "Refuse": refuse, "Wait": _wait}
    handlers = {name: grpc.unary_unary_rpc_method_handler(call) for name, call in methods.items()}
    server = aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    yield
    await server.stop(0.5)


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy = request.param()
    return policy


@pytest.fixture(params=[ours, grpcio])
def server(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest_asyncio.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    client = Client(tmp_path / "socket")
    yield client
    client.close()


async def test_an_answer_comes_back_as_it_is(server: Any, client: Client, tmp_path: Path) -> None:
    async with server(tmp_path / "socket"):
        for said in (b"", b"a", LARGE, b"b"):
            assert await client.call(SAY, said, 10) == said


async def test_many_answers_use_up_no_window(server: Any, client: Client, tmp_path: Path) -> None:
    async with server(tmp_path / "socket"):
        for _ in range(30):
            assert await client.call(SAY, LARGE[:50_000], 10) == LARGE[:50_000]


async def test_a_status_is_an_error_and_the_connection_goes_on(server: Any, client: Client, tmp_path: Path) -> None:
    async with server(tmp_path / "socket"):
        with pytest.raises(CallFailedError, match="UNAVAILABLE: not now"):
            await client.call(REFUSE, b"", 10)
        with pytest.raises(CallFailedError, match="UNIMPLEMENTED"):
            await client.call(NONE, b"", 10)
        assert await client.call(SAY, b"a", 10) == b"a"


async def test_an_answer_that_comes_too_late_is_nobodys(server: Any, client: Client, tmp_path: Path) -> None:
    async with server(tmp_path / "socket"):
        with pytest.raises(CallFailedError, match="no answer in"):
            await client.call(WAIT, b"late", 0.05)
        assert await client.call(SAY, b"a", 10) == b"a"


async def test_a_server_that_leaves_answers_first_and_its_successor_is_found(
    server: Any, client: Client, tmp_path: Path
) -> None:
    async with server(tmp_path / "socket"):
        assert await client.call(SAY, b"a", 10) == b"a"
    with pytest.raises(CallFailedError):
        await client.call(SAY, b"b", 0.5)
    async with server(tmp_path / "socket"):
        assert await client.call(SAY, b"c", 10) == b"c"


async def test_nobody_there_is_an_error(client: Client) -> None:
    with pytest.raises(CallFailedError, match="No such file"):
        await client.call(SAY, b"", 1)
