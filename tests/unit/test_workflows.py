"""The workflows of the forge: they parse, and what CI does is in one script that runs anywhere."""

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))


def read(path: Path) -> dict[Any, Any]:
    workflow: dict[Any, Any] = yaml.safe_load(path.read_text())
    return workflow


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_each_job_runs_somewhere_and_does_something(path: Path) -> None:
    workflow = read(path)
    assert workflow["name"]
    assert workflow[True]  # YAML 1.1 reads `on` as true, and forges know
    for job in workflow["jobs"].values():
        assert job["runs-on"]
        assert job["steps"]


def test_ci_is_one_script_that_can_be_run() -> None:
    (job,) = read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
