"""What a killed owner has left goes; what is somebody's stays."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gatehouse.files.private_dir import private_directory, sweep

ROOT = Path(__file__).parents[2]
OWNER = """
import sys
from gatehouse.files.private_dir import private_directory
with private_directory() as path:
    (path / "secret").write_text("x")
    print(path, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def owner() -> tuple["subprocess.Popen[bytes]", Path]:
    process = subprocess.Popen([sys.executable, "-c", OWNER], stdin=-1, stdout=-1, cwd=ROOT)
    assert process.stdout
    return process, Path(process.stdout.readline().decode().strip())


def test_what_a_killed_owner_left_is_removed_and_what_others_have_is_not(tmp_path: Path) -> None:
    others = [tmp_path / "gatehouse-without-owner", tmp_path / "else"]
    for path in others:
        path.mkdir()
    (living, kept), (killed, left) = owner(), owner()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    with private_directory() as own:
        assert own.stat().st_mode & 0o077 == 0
        sweep(tmp_path, lambda _: False)
        assert left.exists()
        sweep(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([*others, kept, own])
    living.communicate()
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / ".owner").touch()
    (tmp_path / "gatehouse-link").symlink_to("precious")
    sweep(tmp_path)
    assert (tmp_path / "precious").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_another_user_has_is_left(tmp_path: Path) -> None:
    (tmp_path / "gatehouse-x").mkdir()
    (tmp_path / "gatehouse-x" / ".owner").touch()
    os.chown(tmp_path / "gatehouse-x", 65534, 65534)
    sweep(tmp_path)
    assert (tmp_path / "gatehouse-x").exists()
