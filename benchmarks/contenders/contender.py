"""One gateway that takes part."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machine import NotInstalledError, command_of, cpu_s, family, pss_mib

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gatehouse-bench"
"""Where contenders are installed, once; `rm -r` takes them away again."""
INSTALL_TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class Running:
    """A contender that answers on `url` (without `/v1`), the processes it is made of, and what a request must carry."""

    name: str
    url: str
    roots: tuple[int, ...]
    headers: Mapping[str, str] = field(default_factory=dict)
    start_s: float = 0.0
    role: Callable[[list[str]], str] = lambda _command: "gateway"

    def processes(self) -> dict[int, str]:
        """Process id -> what it does in the contender: `envoy`, `authz`, …"""
        return {pid: self.role(command_of(pid)) for root in self.roots for pid in family(root)}

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds used so far, by role."""
        return self._by_role(cpu_s)

    def pss_mib(self) -> dict[str, float]:
        """Memory, by role."""
        return self._by_role(pss_mib)

    def _by_role(self, measure: Callable[[int], float]) -> dict[str, float]:
        found: dict[str, float] = {}
        for pid, role in self.processes().items():
            found[role] = found.get(role, 0.0) + measure(pid)
        return found


Start = Callable[[Path, str], AbstractContextManager[Running]]
"""From a folder of its own and the upstream's URL (`http://127.0.0.1:PORT`) to a contender that answers."""


@dataclass(frozen=True, slots=True)
class Contender:
    """`install` raises `NotInstalledError` with the reason why this machine cannot have it."""

    name: str
    start: Start
    install: Callable[[], object] = lambda: None


def python_environment(name: str, *packages: str) -> Path:
    """The `bin` of a virtual environment with `packages`, made at the first use."""
    folder = CACHE / name
    ready = folder / ".ready"
    if not (ready.exists() and ready.read_text() == " ".join(packages)):
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *packages])
        ready.write_text(" ".join(packages))
    return folder / "bin"


def node_package(name: str, package: str) -> Path:
    """The `node_modules/.bin` with `package`, made at the first use."""
    folder = CACHE / name
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise NotInstalledError("there is no Node.js")
    ready = folder / ".ready"
    if not (ready.exists() and ready.read_text() == package):
        folder.mkdir(parents=True, exist_ok=True)
        _run(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), package])
        ready.write_text(package)
    return folder / "node_modules" / ".bin"


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise NotInstalledError(f"{command[0]} took more than {INSTALL_TIMEOUT_S} s") from None
    if done.returncode:
        raise NotInstalledError((done.stderr.strip() or done.stdout.strip() or "it failed").splitlines()[-1][:200])
