"""kill -9 while a key is rotated leaves the old state or the new one, never neither; and nothing is done unnoted."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.redis_server import redis_server
from tests.integration.test_cli_keys import Desk

pytestmark = pytest.mark.slow

KILLS = 20
CODE = "import sys; from gatehouse.cli import app; print('ready', flush=True); app(sys.argv[1:])"


@pytest.fixture(params=["file", "redis"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    if request.param == "file":
        desk = Desk(tmp_path)
        desk.configure()
        yield desk
        return
    with redis_server() as server:
        desk = Desk(tmp_path, server)
        desk.configure()
        yield desk


def rotate(desk: Desk, key_id: str, kill_after_s: float | None) -> float:
    """Rotate in a process of its own, which is killed after so many seconds of work. Returns how long it took."""
    command = [sys.executable, "-c", CODE, "keys", "rotate", key_id, "--json", "-c", str(desk.config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    began = time.monotonic()
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        process.kill()
    process.communicate(timeout=60)
    return time.monotonic() - began


def test_a_rotation_that_is_killed_has_happened_or_not(desk: Desk) -> None:
    current = desk.json("create --user alice")["id"]
    takes_s = rotate(desk, desk.json("create --user bob")["id"], None)
    chance = random.Random(4711)
    happened = 0
    for _ in range(KILLS):
        before = desk.kept()
        rotate(desk, current, chance.uniform(0, takes_s))
        after = desk.kept()
        new = after.keys() - before.keys()
        if new:
            (successor,) = new
            overlap = after[current].expires_at - after[successor].created_at
            assert overlap == pytest.approx(86_400)
            assert (after[successor].user, after[successor].revoked_at) == ("alice", None)
            assert {"rotate", successor} <= {str(value) for entry in desk.audit() for value in entry.values()}
            happened += 1
            current = successor
        else:
            assert after == before
    assert len([entry for entry in desk.audit() if entry["what"] == "rotate"]) >= happened + 1
    assert desk.json("rotate", current)["user_id"] == "alice"
