"""The pod's own commands, in the pod's own order, make a gateway that serves, follows changes and drains."""

import base64
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import pytest
import yaml

from gatehouse.files.atomic_file import replace_file
from testkit.fakes.fake_vllm import FakeVllm
from testkit.fakes.script import Script
from testkit.ports import free_port
from testkit.redis_server import redis_server
from testkit.waiting import until
from tests.deploy import kubelet
from tests.deploy.as_processes import Processes
from tests.deploy.kubernetes import Manifest, built, configuration, named

KEY = {"Authorization": "Bearer sk-internal-dev-key-001"}


def has(*command: str, word: str = "--help") -> bool:
    done = subprocess.run([sys.executable, "-m", *command, "--help"], capture_output=True, text=True, check=False)
    return done.returncode == 0 and word in done.stdout


def missing() -> list[str]:
    """What the manifests use and this version has not."""
    there = {
        "gatehouse render --watch": has("gatehouse.cli", "render", word="--accepted"),
        "gatehouse drain": has("gatehouse.cli", "drain"),
        "gatehouse.rpc.probe": has("gatehouse.rpc.probe"),
    }
    return [name for name, found in there.items() if not found]


@pytest.fixture(scope="module")
def overlay() -> list[Manifest]:
    if missing():
        pytest.skip(f"this version has no {', '.join(missing())}")
    return built("overlays/dev")


@dataclass(frozen=True)
class Served:
    url: str
    runtime: Processes
    vllm: FakeVllm
    config: Path


@contextmanager
def running(overlay: list[Manifest]) -> Iterator[Served]:
    with tempfile.TemporaryDirectory(prefix="pod-") as name, FakeVllm(("demo",)) as vllm, redis_server() as redis:
        root = Path(name)
        places = [
            "/run/gatehouse",
            "/var/log/gatehouse",
            "/etc/gatehouse",
            "/run/secrets/gatehouse",
            "/run/secrets/redis",
        ]
        mounts = {inside: root / str(number) for number, inside in enumerate(places)}
        for folder in mounts.values():
            folder.mkdir()
        secret = named(overlay, "Secret", "gatehouse-keys")["data"]
        (mounts["/run/secrets/gatehouse"] / "keys.yaml").write_bytes(base64.b64decode(secret["keys.yaml"]))
        (mounts["/run/secrets/redis"] / "url").write_text(redis.url)
        ports = {"http": free_port(), "metrics": free_port()}
        config = mounts["/etc/gatehouse"] / "gatehouse.yaml"
        config.write_text(written(overlay, vllm, ports, mounts))
        runtime = Processes(mounts, ports, root)
        with kubelet.running(runtime, named(overlay, "Deployment", "gatehouse")["spec"]["template"]):
            yield Served(f"http://127.0.0.1:{ports['http']}", runtime, vllm, config)


def written(overlay: list[Manifest], vllm: FakeVllm, ports: dict[str, int], mounts: dict[str, Path]) -> str:
    """The overlay's gatehouse.yaml, for this machine."""
    text = configuration(overlay)
    for inside, here in mounts.items():
        text = text.replace(inside, str(here))
    config = yaml.safe_load(text)
    config["server"] |= {"host": "127.0.0.1", "port": ports["http"], "metrics_port": ports["metrics"]}
    config["models"]["demo"]["backends"] = [{"url": f"{vllm.url}/v1"}]
    return yaml.safe_dump(config)


def ask(url: str, model: str = "demo") -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers=KEY, timeout=20)


@pytest.mark.slow
def test_the_pods_commands_make_a_gateway_that_follows_changes_and_drains(overlay: list[Manifest]) -> None:
    """One start for three promises: it takes a while."""
    events: list[str] = []
    begun = threading.Event()
    with running(overlay) as served:
        assert ask(served.url).status_code == 200
        served.vllm.down()
        probes_succeed(overlay, served.runtime)
        served.vllm.up()

        changed = yaml.safe_load(served.config.read_text())
        changed["models"]["demo"]["aliases"] = ["other"]
        replace_file(served.config, yaml.safe_dump(changed).encode())
        until(lambda: ask(served.url, "other").status_code == 200, 30)

        served.vllm.script = Script(event_delay_s=0.7)
        reader = threading.Thread(target=stream, args=(served.url, events, begun))
        reader.start()
        assert begun.wait(20)
        so_far = len(events)
    reader.join(30)
    assert "data: [DONE]" in events[so_far:]


def probes_succeed(overlay: list[Manifest], runtime: Processes) -> None:
    """Whatever the model servers do."""
    template = named(overlay, "Deployment", "gatehouse")["spec"]["template"]
    for container in template["spec"]["initContainers"]:
        for kind in {"readinessProbe", "livenessProbe"} & container.keys():
            assert kubelet.probed(runtime, container, kind), (container["name"], kind)


def stream(url: str, events: list[str], begun: threading.Event) -> None:
    body = {"model": "demo", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, headers=KEY, timeout=60) as answer:
        for line in answer.iter_lines():
            events.append(line)
            begun.set()
