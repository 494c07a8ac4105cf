"""LiteLLM's proxy with two workers and a master key: no database, no limits, so less than Gatehouse does."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from benchmarks.clients.request import BODY, HEADERS, PATH
from benchmarks.contenders.contender import Contender, Running, python_environment
from benchmarks.machine import GATEWAY_CPUS, free_port, running, wait_until_answers
from benchmarks.upstream import MODEL

_KEY = "sk-benchmark"


def _install() -> Path:
    return python_environment("litellm", "litellm[proxy]==1.108.*")


@contextmanager
def _start(folder: Path, upstream: str) -> Iterator[Running]:
    model = {"model": f"openai/{MODEL}", "api_base": f"{upstream}/v1", "api_key": "none"}
    document = {
        "model_list": [{"model_name": MODEL, "litellm_params": model}],
        "general_settings": {"master_key": _KEY},
        "litellm_settings": {"num_retries": 0, "telemetry": False},
    }
    file, port = folder / "config.yaml", free_port()
    file.write_text(yaml.safe_dump(document))
    command: list[str | Path] = [_install() / "litellm", "--config", file, "--host", "127.0.0.1", "--port", str(port)]
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"}
    with running([*command, "--num_workers", "2"], folder, GATEWAY_CPUS, environment) as pid:
        url, headers = f"http://127.0.0.1:{port}", {"authorization": f"Bearer {_KEY}"}
        start_s = wait_until_answers(url + PATH, {**HEADERS, **headers}, BODY, pid)
        yield Running("LiteLLM", url, (pid,), headers, start_s, lambda _command: "workers")


CONTENDER = Contender("LiteLLM", _start, _install)
