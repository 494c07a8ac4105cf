"""Portkey's gateway on Node.js: it routes, and knows neither keys nor limits."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.clients.request import BODY, HEADERS, PATH
from benchmarks.contenders.contender import Contender, Running, node_package
from benchmarks.machine import GATEWAY_CPUS, free_port, running, wait_until_answers


def _install() -> Path:
    return node_package("portkey", "@portkey-ai/gateway@1.15")


@contextmanager
def _start(folder: Path, upstream: str) -> Iterator[Running]:
    port = free_port()
    headers = {
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"{upstream}/v1",
        "authorization": "Bearer none",
    }
    command: list[str | Path] = [_install() / "gateway", "--headless", f"--port={port}"]
    with running(command, folder, GATEWAY_CPUS, {"NODE_ENV": "production"}) as pid:
        url = f"http://127.0.0.1:{port}"
        start_s = wait_until_answers(url + PATH, {**HEADERS, **headers}, BODY, pid)
        yield Running("Portkey", url, (pid,), headers, start_s, lambda _command: "node")


CONTENDER = Contender("Portkey", _start, _install)
