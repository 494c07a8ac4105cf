"""Samples of several processes are one exposition, and outlive whoever took them."""

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gatehouse.metrics import exposition

ROOT = Path(__file__).parents[2]
PROCESS = """
import os, sys
from pathlib import Path
from gatehouse import metrics
metrics.share(Path(sys.argv[1]), sys.argv[2])
from prometheus_client import Counter, Gauge, Histogram
Counter("asked", "Questions.", ["result"]).labels("yes").inc(int(sys.argv[3]))
Histogram("took_seconds", "Time.", buckets=(1.0, 2.0)).observe(1.5)
Gauge("running", "Now.", multiprocess_mode="livesum").inc(int(sys.argv[3]))
os._exit(9)  # as one that is killed: nothing is flushed
"""


def process(directory: Path, name: str, count: int) -> None:
    subprocess.run([sys.executable, "-c", PROCESS, str(directory), name, str(count)], cwd=ROOT, check=False)


def samples(directory: Path) -> dict[str, float]:
    families = text_string_to_metric_families(exposition(directory).decode())
    return {sample.name + "".join(sample.labels.values()): sample.value for each in families for sample in each.samples}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes that ended without a word, one of which was started a second time."""
    shared = tmp_path_factory.mktemp("run") / "metrics"
    process(shared, "authz-0", 1)
    process(shared, "authz-1", 10)
    process(shared, "authz-0", 100)
    return shared


def test_counts_of_all_processes_add_up_and_a_restart_goes_on(directory: Path) -> None:
    assert samples(directory)["asked_totalyes"] == 111


def test_observations_of_all_processes_are_in_one_histogram(directory: Path) -> None:
    found = samples(directory)
    assert (found["took_seconds_bucket1.0"], found["took_seconds_bucket2.0"], found["took_seconds_count"]) == (0, 3, 3)


def test_the_files_are_named_by_process_so_their_number_is_bounded(directory: Path) -> None:
    names = {path.name for path in directory.iterdir()}
    assert {"counter_authz-0.db", "counter_authz-1.db"} <= names
    assert all("authz-0" in name or "authz-1" in name for name in names)


def test_before_anyone_counts_there_is_nothing_to_show(tmp_path: Path) -> None:
    assert exposition(tmp_path) == b""
