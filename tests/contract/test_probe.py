"""The health check of containers, against a server as the services run it."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from gatehouse.rpc.probe import sockets
from gatehouse.rpc.server import serve
from gatehouse.rpc.service import Service


async def probe(run_dir: Path, *services: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "gatehouse.rpc.probe", "--run-dir", str(run_dir), *services]
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
    _, said = await process.communicate()
    return process.returncode or 0, said.decode().strip()


@pytest.mark.asyncio
async def test_a_service_is_well_while_one_of_its_workers_serves(tmp_path: Path) -> None:
    (tmp_path / "authz-0.sock").touch()  # left by a worker that is gone
    stop = asyncio.Event()
    worker = asyncio.create_task(serve(Service({}), tmp_path / "authz-1.sock", stop, 1))
    await asyncio.sleep(0.2)
    assert await probe(tmp_path, "authz") == (0, "")
    assert await probe(tmp_path) == (1, f"no worker of ratelimit, accesslog answers in {tmp_path}")
    stop.set()
    await worker
    assert (await probe(tmp_path, "authz"))[0] == 1


def test_pages_are_not_asked_for_their_health(tmp_path: Path) -> None:
    for name in ("accesslog-0.sock", "accesslog-0.http.sock", "accesslog-1.sock"):
        (tmp_path / name).touch()
    assert [path.name for path in sockets(tmp_path, "accesslog")] == ["accesslog-0.sock", "accesslog-1.sock"]
