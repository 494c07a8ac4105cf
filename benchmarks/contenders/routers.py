"""Routers in Rust that choose a replica and pass on: the part of the work that they share with Gatehouse."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from benchmarks.clients.request import BODY, HEADERS, PATH
from benchmarks.contenders.contender import Contender, Running, python_environment
from benchmarks.machine import GATEWAY_CPUS, free_port, running, wait_until_answers


def _router(name: str, version: str, *launch: str) -> Contender:
    def install() -> Path:
        return python_environment(name, f"{name}=={version}")

    def start(folder: Path, upstream: str) -> AbstractContextManager[Running]:
        return _started(name, [install() / launch[0], *launch[1:]], folder, upstream)

    return Contender(name, start, install)


@contextmanager
def _started(name: str, launch: list[str | Path], folder: Path, upstream: str) -> Iterator[Running]:
    port = free_port()
    command = [*launch, "--host", "127.0.0.1", "--port", str(port), "--worker-urls", upstream]
    command += ["--policy", "round_robin", "--prometheus-port", str(free_port()), "--log-level", "error"]
    with running(command, folder, GATEWAY_CPUS) as pid:
        url = f"http://127.0.0.1:{port}"
        start_s = wait_until_answers(url + PATH, HEADERS, BODY, pid)
        yield Running(name, url, (pid,), start_s=start_s, role=lambda _command: "router")


VLLM_ROUTER = _router("vllm-router", "0.1.*", "vllm-router")
SMG = _router("smg", "1.13.*", "smg", "launch")
