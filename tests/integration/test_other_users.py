"""What another user of the same machine gets of a gateway: nothing."""

import os
import pty
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from gatehouse.gateway import generation
from testkit.fakes.fake_vllm import FakeVllm
from testkit.ports import free_port
from testkit.running_gateway import ROOT, RunningGateway, running_gateway
from tests.integration.conftest import MODEL, PREMIUM, short_form

NOBODY = 65534
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
SPEAK = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for path in sys.argv[1:]:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as client:
            try:
                client.connect(path)
                print("connected to", path)
            except PermissionError:
                pass
"""


@pytest.fixture(scope="module")
def backend() -> Iterator[FakeVllm]:
    with FakeVllm((MODEL,)) as fake:
        yield fake


@pytest.fixture(scope="module")
def gateway(backend: FakeVllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """Started where an older version has left its logs open to everybody."""
    directory = tmp_path_factory.mktemp("gateway")
    (directory / "logs").mkdir()
    (directory / "logs" / "envoy.log").touch(0o644)
    with running_gateway(directory, short_form(backend)) as running:
        with running.client(headers={"authorization": f"Bearer {PREMIUM}"}) as client:
            assert client.post("/v1/embeddings", json={"model": MODEL, "input": "hi"}).status_code == 200
        running.records(1)
        yield running


def sockets_of(gateway: RunningGateway) -> list[str]:
    """Of all processes of the gateway, as the kernel names them; abstract ones begin with `@`."""
    inodes = set()
    for pid in (gateway.process.pid, *gateway.children().values()):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            target = os.readlink(descriptor)
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    rows = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    return sorted({row[7] for row in rows if len(row) > 7 and row[6] in inodes})


def test_no_socket_is_without_permissions(gateway: RunningGateway) -> None:
    """Abstract sockets are. Envoy hands its listeners to whoever speaks by those of its hot restart."""
    found = sockets_of(gateway)
    assert [name for name in found if name.startswith("@")] == []
    if generation.possible("/run/e"):
        assert len([name for name in found if "envoy_parent_" in name or "envoy_child_" in name]) == 2


@needs_root
def test_another_user_can_speak_to_none_of_them(gateway: RunningGateway) -> None:
    paths = sockets_of(gateway)
    assert len(paths) > 8
    told = subprocess.run([sys.executable, "-c", SPEAK, *paths], capture_output=True, text=True, check=True, cwd="/")
    assert told.stdout == ""


def test_every_socket_itself_is_closed_to_others(gateway: RunningGateway) -> None:
    """Whatever becomes of the directories around them."""
    paths = [Path(name) for name in sockets_of(gateway)]
    assert [path for path in paths if path.exists() and path.stat().st_mode & 0o007] == []


def test_logs_are_for_their_user_and_group(gateway: RunningGateway) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in gateway.logs("*.log")}
    assert {"envoy.log", "envoy_access.log"} < set(modes)
    assert len(modes) == 4
    assert set(modes.values()) == {0o640}
    assert [path for path in gateway.logs() if path.stat().st_mode & 0o007] == []


def test_the_run_directory_has_no_name_that_others_could_take(gateway: RunningGateway) -> None:
    path = gateway.run_dir().path
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert path.name != f"gatehouse-{os.getuid()}"


def console(directory: Path, *arguments: str, terminal: bool) -> str:
    """What `gatehouse up` has said by the time it is ready."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    command = [sys.executable, "-m", "gatehouse.cli", "up", "-c", str(directory / "gatehouse.yaml"), *arguments]
    process = subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL, cwd=ROOT, start_new_session=True)
    os.close(theirs)
    said = b""
    try:
        while b"-d '{" not in said:
            more = os.read(ours, 4096)
            assert more, said
            said += more
    finally:
        process.terminate()
        process.wait(30)
        os.close(ours)
    return said.decode()


@pytest.mark.parametrize(
    ("terminal", "demo", "shown"), [(False, True, False), (True, True, True), (True, False, False)]
)
def test_a_console_shows_no_key_but_that_of_a_demo_on_a_terminal(
    backend: FakeVllm, tmp_path: Path, terminal: bool, demo: bool, shown: bool
) -> None:
    document = short_form(backend)
    if demo:
        document["vllm"] = {"base_url": f"http://127.0.0.1:{free_port()}/v1", "default_model": MODEL}
    document["server"] = {"host": "127.0.0.1", "port": free_port(), "metrics_port": 0, "workers": 1, "drain_s": 0}
    document["logging"] = {"dir": str(tmp_path / "logs")}
    (tmp_path / "gatehouse.yaml").write_text(yaml.safe_dump(document))
    said = console(tmp_path, *(["--or-demo"] if demo else []), terminal=terminal)
    assert (PREMIUM in said) is shown
    assert ("$GATEHOUSE_KEY" in said) is not shown
