"""Two minutes of the soak, as a program: it breaks things, finds nothing violated and leaves nothing behind."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from testkit.running_gateway import ROOT


@pytest.mark.slow
def test_two_minutes_violate_nothing(tmp_path: Path) -> None:
    file, before = tmp_path / "soak.json", set(Path(tempfile.gettempdir()).glob("gh-soak-*"))
    command = [sys.executable, "-m", "tests.soak", "--minutes", "2", "--every", "20", "--rate", "60", "--only", "kill"]
    done = subprocess.run(
        [*command, "--json", str(file)], capture_output=True, text=True, timeout=400, cwd=ROOT, check=False
    )
    report = json.loads(file.read_text())
    assert report["violations"] == [], done.stdout
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(report["faults"]) >= 4
    assert report["rate"] > 50
    assert set(Path(tempfile.gettempdir()).glob("gh-soak-*")) <= before
