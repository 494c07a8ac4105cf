"""The script that ends streams of revoked keys, in LuaJIT with real connections: who is cut, after how many walks."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from lupa import luajit21

STREAMS = 50

HANDLE = """
function handle_for(key, client, clock, pause)
  local info = {}
  function info:dynamicMetadata() return {get = function() return {key_id = key} end} end
  function info:downstreamDirectRemoteAddress() return client end
  local handle = {}
  function handle:headers() return {get = function() return "text/event-stream" end} end
  function handle:streamInfo() return info end
  function handle:timestamp() return clock() end
  function handle:bodyChunks() return function() pause() return 1 end end
  return handle
end
function stream(key, client, clock)
  return {co = coroutine.create(function() envoy_on_response(handle_for(key, client, clock, coroutine.yield)) end)}
end
function resumed(stream)
  local fine, wrong = coroutine.resume(stream.co)
  if not fine then error(wrong) end
  return coroutine.status(stream.co)
end
"""


class Script:
    """The script, and how often it has walked the descriptors."""

    def __init__(self, file: Path) -> None:
        code = (files("gatehouse.envoy") / "lua" / "cut.lua").read_text("utf-8").replace("@FILE@", str(file))
        counted = code.replace("local function walk()", "walks = 0\nlocal function walk()\n  walks = walks + 1")
        assert counted != code
        self.lua = luajit21.LuaRuntime()
        self.lua.execute(counted + HANDLE)
        self.now = 10_000

    @property
    def walks(self) -> int:
        return int(self.lua.globals().walks)

    def stream(self, key: str, client: socket.socket) -> Any:
        host, port = client.getsockname()[:2]
        started = self.lua.globals().stream(key, f"{host}:{port}", lambda: self.now)
        self.over(started)
        return started

    def over(self, stream: Any) -> bool:
        """Whether it has ended with the next chunk."""
        return bool(self.lua.globals().resumed(stream) == "dead")


@pytest.fixture
def connections() -> Iterator[Callable[[], tuple[socket.socket, socket.socket]]]:
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as server:

        def connect() -> tuple[socket.socket, socket.socket]:
            client = stack.enter_context(socket.create_connection(server.getsockname()))
            accepted = stack.enter_context(server.accept()[0])
            client.settimeout(2)
            return client, accepted

        yield connect


def test_one_walk_does_for_all_streams(tmp_path: Path, connections: Any) -> None:
    script = Script(tmp_path / "cut")
    clients = [connections()[0] for _ in range(STREAMS)]
    streams = [script.stream("doomed", client) for client in clients]
    other = connections()[0]
    bystander = script.stream("other", other)
    script.now += 1000
    (tmp_path / "cut").write_text("doomed\n")
    assert all(script.over(stream) for stream in streams)
    assert script.walks == 1
    assert [client.recv(1) for client in clients] == [b""] * STREAMS
    assert not script.over(bystander)
    other.settimeout(0.05)
    with pytest.raises(TimeoutError):
        other.recv(1)


def test_one_that_came_after_the_walk_is_found_by_the_next(tmp_path: Path, connections: Any) -> None:
    (tmp_path / "cut").write_text("doomed\n")
    script = Script(tmp_path / "cut")
    script.over(script.stream("doomed", connections()[0]))
    late = connections()[0]
    stream = script.stream("doomed", late)
    assert not script.over(stream)
    script.now += 600
    assert script.over(stream)
    assert (script.walks, late.recv(1)) == (2, b"")


def test_a_descriptor_that_is_anothers_by_now_is_left_alone(tmp_path: Path, connections: Any) -> None:
    (tmp_path / "cut").write_text("doomed\n")
    script = Script(tmp_path / "cut")
    first, gone = connections(), connections()
    stale = script.stream("doomed", gone[0])
    assert script.over(script.stream("doomed", first[0]))
    number = gone[1].fileno()
    gone[1].close()
    newcomer, accepted = connections()
    assert number in (newcomer.fileno(), accepted.fileno())
    assert not script.over(stale)
    newcomer.settimeout(0.05)
    with pytest.raises(TimeoutError):
        newcomer.recv(1)
