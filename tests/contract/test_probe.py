"""The health check of containers, against a server as the services run it."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from gatehouse.config import Config
from gatehouse.config.run_dir import RunDir
from gatehouse.rpc.server import serve
from gatehouse.rpc.service import Service
from portal_service.serving import serving
from portal_service.tally.usage_db import UsageDb


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
    assert await probe(tmp_path) == (1, f"no worker of ratelimit, accesslog, portal answers in {tmp_path}")
    stop.set()
    await worker
    assert (await probe(tmp_path, "authz"))[0] == 1


@pytest.mark.asyncio
async def test_the_portal_is_well_while_it_answers_be_there_a_model_server_or_not(tmp_path: Path) -> None:
    config = Config.model_validate({"vllm": {"base_url": "http://127.0.0.1:9/v1"}, "server": {"metrics_port": 0}})
    run_dir = RunDir(tmp_path)
    async with serving(config, run_dir, UsageDb(tmp_path / "tally.sqlite")):
        assert await probe(tmp_path, "portal") == (0, "")
    run_dir.portal_socket.touch()
    assert await probe(tmp_path, "portal") == (1, f"no worker of portal answers in {tmp_path}")
