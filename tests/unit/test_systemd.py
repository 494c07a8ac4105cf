"""What systemd hears of a gateway."""

import asyncio
import socket
from pathlib import Path

import pytest

from gatehouse.process.systemd import report


@pytest.fixture
def heard(tmp_path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "notify"))
    listener.setblocking(False)
    return listener


def drained(listener: socket.socket) -> list[str]:
    said = []
    while True:
        try:
            said.append(listener.recv(100).decode())
        except BlockingIOError:
            return said


@pytest.mark.asyncio
async def test_systemd_hears_that_it_is_ready_that_it_lives_and_that_it_stops(heard: socket.socket) -> None:
    ready, stop = asyncio.Event(), asyncio.Event()
    environment = {"NOTIFY_SOCKET": heard.getsockname(), "WATCHDOG_USEC": "20000"}
    task = asyncio.create_task(report(ready, stop, environment))
    await asyncio.sleep(0.05)
    assert drained(heard) == []
    ready.set()
    await asyncio.sleep(0.1)
    said = drained(heard)
    assert said[:2] == ["READY=1", "WATCHDOG=1"]
    assert set(said[2:]) == {"WATCHDOG=1"}
    stop.set()
    await asyncio.sleep(0.05)
    assert "STOPPING=1" in drained(heard)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    drained(heard)
    await asyncio.sleep(0.05)
    assert drained(heard) == []


@pytest.mark.asyncio
async def test_nobody_is_told_where_nobody_asks() -> None:
    await report(asyncio.Event(), asyncio.Event(), {})


@pytest.mark.asyncio
async def test_the_watchdog_is_left_alone_unless_systemd_has_one(heard: socket.socket) -> None:
    ready, stop = asyncio.Event(), asyncio.Event()
    ready.set()
    stop.set()
    await report(ready, stop, {"NOTIFY_SOCKET": heard.getsockname()})
    assert drained(heard) == ["READY=1", "STOPPING=1"]
