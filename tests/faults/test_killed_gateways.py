"""`kill -9` of a gateway, again and again: the next start finds nothing of those before, and touches no other's."""

import os
import signal
import tempfile
from pathlib import Path

from testkit.fakes.fake_vllm import FakeVllm
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until
from tests.integration.conftest import MODEL, short_form

SHARED_MEMORY = Path("/dev/shm")


def left_in(directory: Path) -> list[Path]:
    return sorted(directory.glob("gatehouse-*"))


def shared_memory(running: RunningGateway) -> Path:
    return SHARED_MEMORY / f"envoy_shared_memory_{int(running.run_dir().base_id.read_text())}0"


def test_what_killed_gateways_leave_is_swept_at_the_next_start(tmp_path: Path) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="t-") as name,
        FakeVllm((MODEL,)) as backend,
    ):  # for sockets: a short path
        temporary, environment = Path(name), {"TMPDIR": name}
        (tmp_path / "beside").mkdir()
        with running_gateway(tmp_path / "beside", short_form(backend), environment=environment) as beside:
            memories = []
            for number in range(3):
                (tmp_path / str(number)).mkdir()
                with running_gateway(tmp_path / str(number), short_form(backend), environment=environment) as running:
                    memories.append(shared_memory(running))
                    children = running.children()
                    os.kill(running.process.pid, signal.SIGKILL)
                    running.process.wait()
                    gone = [Path(f"/proc/{pid}") for pid in children.values()]
                    until(lambda gone=gone: not any(path.exists() for path in gone), 15, "the end of them all")
            assert len(left_in(temporary)) == 2, "the last one's is left, and the living one's"
            (tmp_path / "next").mkdir()
            with running_gateway(tmp_path / "next", short_form(backend), environment=environment) as running:
                assert left_in(temporary) == sorted([beside.run_dir().path, running.run_dir().path])
                assert not any(path.exists() for path in memories)
                assert shared_memory(beside).exists()
                assert beside.run_dir().socket("authz", 0).exists()


def test_an_envoy_that_is_killed_leaves_no_shared_memory(tmp_path: Path) -> None:
    with FakeVllm((MODEL,)) as backend, running_gateway(tmp_path, short_form(backend)) as running:
        before, pid = shared_memory(running), running.children()["envoy"]
        os.kill(pid, signal.SIGKILL)
        until(lambda: running.children().get("envoy") not in (pid, None) and shared_memory(running) != before, 5)
        assert not before.exists()
        after = shared_memory(running)
        assert running.stop() == 0
        assert not after.exists()
