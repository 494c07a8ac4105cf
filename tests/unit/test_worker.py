"""The command line that the services share."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatehouse.config.run_dir import DEFAULT_RUN_DIR
from gatehouse.process.worker import Worker, run, worker_program
from testkit.waiting import until

ROOT = Path(__file__).parents[2]
GOOD = "vllm: {base_url: 'http://localhost:8100/v1'}\nserver: {workers: 2}\n"
BAD = "vllm: {base_url: 'http://localhost:8100/v1'}\nserver:\n  wrokers: 2\n"


async def never(worker: Worker) -> None:
    raise AssertionError("a worker was started")


def written(directory: Path, text: str) -> Path:
    file = directory / "gatehouse.yaml"
    file.write_text(text + f"logging: {{dir: '{directory}/logs'}}\n")
    return file


@pytest.mark.parametrize("arguments", [[], ["--index", "0"]])
def test_a_bad_configuration_is_status_2_and_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    file = written(tmp_path, BAD)
    assert run("authz", never, ["-c", str(file), *arguments]) == 2
    said = capsys.readouterr()
    assert said.err == f"{file}:3: server.wrokers: unknown field (did you mean 'workers'?)\n"
    assert said.out == ""
    assert not (tmp_path / "logs").exists()


def test_a_file_that_is_not_there_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("authz", never, ["-c", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml: can't be read: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("service", ["authz", "ratelimit", "accesslog", "portal"])
def test_help_names_the_command_and_its_options(service: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(service, never, ["--help"])  # type: ignore[arg-type]
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert f"python -m {service}_service" in said
    assert [option for option in ("--config", "--run-dir", "--workers", "--index") if option not in said] == []


def test_an_option_nobody_knows_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("authz", never, ["--wrokers", "2"])
    assert ended.value.code == 2
    assert "--wrokers" in capsys.readouterr().err


def test_a_worker_is_told_which_one_it_is() -> None:
    program = worker_program("ratelimit", 1, Path("g.yaml"), DEFAULT_RUN_DIR)
    assert program.name == "ratelimit-1"
    expected = ["-m", "ratelimit_service", "-c", "g.yaml", "--run-dir", "/run/gatehouse", "--index", "1"]
    assert program.command == (sys.executable, *expected)


ONE_WORKER = """
import asyncio, json, logging, os, sys
from gatehouse.process.worker import run

async def main(worker):
    logging.getLogger("test").info("working")
    metrics = os.environ["PROMETHEUS_MULTIPROC_DIR"]
    print(json.dumps([worker.index, str(worker.run_dir.path), worker.config.server.workers, metrics]), flush=True)
    await worker.stop.wait()
    print("finished", flush=True)

sys.exit(run("authz", main))
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_one_worker_works_until_it_is_told_to_stop(tmp_path: Path, sent: signal.Signals) -> None:
    arguments = ["-c", str(written(tmp_path, GOOD)), "--run-dir", str(tmp_path / "run"), "--index", "3"]
    command = [sys.executable, "-c", ONE_WORKER, *arguments]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert worker.stdout is not None
    assert json.loads(worker.stdout.readline()) == [3, f"{tmp_path}/run", 2, f"{tmp_path}/run/metrics"]
    worker.send_signal(sent)
    assert worker.communicate(timeout=10)[0] == "finished\n"
    assert worker.returncode == 0
    (log,) = (tmp_path / "logs").iterdir()
    assert json.loads(log.read_text().splitlines()[0])["process"] == "authz-3"


@pytest.fixture
def service(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`python -m authz_service` with a worker more than the configuration says."""
    command = [sys.executable, "-m", "authz_service", "-c", str(written(tmp_path, GOOD))]
    process = subprocess.Popen([*command, "--run-dir", str(tmp_path), "--workers", "3"], cwd=ROOT)
    yield process
    if process.poll() is None:
        process.kill()
        process.wait()


def test_a_service_runs_its_workers_and_stops_them(tmp_path: Path, service: "subprocess.Popen[bytes]") -> None:
    sockets = [tmp_path / f"authz-{index}.sock" for index in range(3)]
    until(lambda: all(socket.exists() for socket in sockets), 20)
    assert not (tmp_path / "authz-3.sock").exists()
    children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
    assert len(children) == 4  # and what they are copies of
    os.kill(service.pid, signal.SIGTERM)
    assert service.wait(10) == 0
    assert not any(socket.exists() for socket in sockets)
