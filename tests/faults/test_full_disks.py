"""A disk that is full: workers live, requests are served, and what could not be done meanwhile is done afterwards.

The disk is a small one of the test's own (tmpfs), which takes root and the right to mount.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
import yaml

from testkit.fakes.fake_vllm import FakeVllm
from testkit.lines import complete_lines
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until
from tests.integration.conftest import LIMITED, MODEL, short_form

MIB = 1024 * 1024
CHAT = "/v1/chat/completions"


@pytest.fixture
def disk() -> Iterator[Path]:
    """At a short path: those of sockets are bounded."""
    place = Path(tempfile.mkdtemp(prefix="full-"))
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True, check=False)
    if made.returncode:
        place.rmdir()
        pytest.skip(f"needs the right to mount: {made.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
        place.rmdir()


def fill(disk: Path) -> Path:
    """With a file that takes all there is."""
    file = disk / "filler"
    with file.open("wb", buffering=0) as out:
        try:
            while True:
                out.write(b"x" * 4096)
        except OSError:
            return file


def status(gateway: RunningGateway, model: str, key: str = LIMITED) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    return httpx.post(f"{gateway.url}{CHAT}", json=body, headers={"authorization": f"Bearer {key}"}).status_code


def many_models(backend: FakeVllm) -> dict[str, object]:
    """So many samples that their files have to grow."""
    models = {f"tiny-{number}": {"backends": [{"url": backend.url}]} for number in range(40)}
    return {**{k: v for k, v in short_form(backend).items() if k != "vllm"}, "models": models}


def test_a_full_tmpdir_ends_no_worker_and_no_sample_is_lost(tmp_path: Path, disk: Path) -> None:
    with (
        FakeVllm((MODEL,)) as backend,
        running_gateway(tmp_path, many_models(backend), environment={"TMPDIR": str(disk)}) as gateway,
    ):
        children = gateway.children()
        filler = fill(disk)
        for number in range(40):
            assert status(gateway, f"tiny-{number}") == 200
        gateway.records(40)
        now = gateway.children()
        assert {name: now.get(name) for name in children if name != "prefork"} == {
            name: pid for name, pid in children.items() if name != "prefork"
        }
        filler.unlink()
        time.sleep(1.2)
        for number in range(40):
            status(gateway, f"tiny-{number}")
        until(lambda: gateway.metric("api_requests_total", status="200", endpoint=CHAT) >= 80, 5, "every sample")
        assert gateway.metric("api_access_log_lost_total") == 0


def test_an_edit_that_is_made_while_the_disk_is_full_is_taken_up_later(tmp_path: Path, disk: Path) -> None:
    with (
        FakeVllm((MODEL,)) as backend,
        running_gateway(tmp_path, short_form(backend), environment={"TMPDIR": str(disk)}) as gateway,
    ):
        filler = fill(disk)
        file, key = tmp_path / "gatehouse.yaml", "sk-made-meanwhile-0001"
        document = yaml.safe_load(file.read_text())
        document["api_keys"][key] = {"user_id": "new", "tier": "unlimited"}
        file.write_text(yaml.safe_dump(document))
        time.sleep(4)
        assert status(gateway, "tiny") == 200
        assert status(gateway, "tiny", key) == 401
        assert gateway.metric("api_config_reloads_total", result="rejected") <= 2, "told once"
        filler.unlink()
        until(lambda: status(gateway, "tiny", key) == 200, 3, "the edit")
        said = "".join(path.read_text() for path in gateway.logs("app_*.log"))
        assert 0 < said.count("a change is rejected") <= 2
        assert os.path.exists(gateway.run_dir().path)


def test_a_log_on_a_full_disk_has_whole_lines_and_counts_what_it_lacks(tmp_path: Path, disk: Path) -> None:
    """Two receivers write to it, and there is room for some lines now and then: never for all."""

    def records() -> list[object]:
        return [json.loads(line) for path in disk.glob("logs/requests_*") for line in complete_lines(path)]

    with (
        FakeVllm((MODEL,)) as backend,
        running_gateway(tmp_path, {**short_form(backend), "logging": {"dir": str(disk / "logs")}}) as gateway,
    ):
        until(lambda: len(records()) == 1, 5, "the record of who waited for the gateway")
        filler = fill(disk)
        for _ in range(8):
            os.truncate(filler, filler.stat().st_size - 4096)
            assert [status(gateway, "tiny") for _ in range(20)] == [200] * 20
            time.sleep(0.3)
        until(lambda: gateway.metric("api_requests_total", status="200", endpoint=CHAT) == 160, 10, "all entries")
        assert 1 < len(records()) < 160
        until(lambda: len(records()) + gateway.metric("api_access_log_lost_total") == 161, 3, "the account")
        assert all(path.read_bytes().endswith(b"\n") for path in disk.glob("logs/requests_*"))
