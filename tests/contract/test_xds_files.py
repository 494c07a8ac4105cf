"""A real Envoy goes from one set of files to the next: no route is without its cluster, no stream is cut."""

import asyncio
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import pytest

from gatehouse.config import Config
from gatehouse.contract.names import ROUTES as ROUTES_NAME
from gatehouse.envoy import Rendered
from gatehouse.envoy.backends import model_clusters
from gatehouse.envoy.listener import rds
from gatehouse.envoy.message import Message, extension, typed
from gatehouse.envoy.render import CLUSTERS, ROUTES, versioned
from gatehouse.gateway.envoy_admin import Admin
from gatehouse.gateway.envoy_binary import EnvoyRejectsError, envoy_path, write
from gatehouse.gateway.xds_files import Switch
from testkit.fakes.fake_vllm import FakeVllm
from testkit.fakes.script import Script
from testkit.ports import free_port
from testkit.waiting import until, until_async

BODY = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 60, "ignore_eos": True}


def rendered(*models: str, url: str, bootstrap: Message | None = None) -> Rendered:
    """`/NAME/...` goes to the cluster of the model called so; the clusters are those of a gateway."""
    config = Config.model_validate({"models": {name: {"backends": [{"url": f"{url}/v1"}]} for name in models}})
    found = [
        {
            "match": {"prefix": f"/{name}/"},
            "route": {"cluster": f"model:{name}", "timeout": "0s", "prefix_rewrite": "/"},
        }
        for name in models
    ]
    missing = {"match": {"prefix": "/"}, "direct_response": {"status": 404}}
    host = {"name": "all", "domains": ["*"], "routes": [*found, missing]}
    clusters = [typed("envoy.config.cluster.v3.Cluster", **cluster) for cluster in model_clusters(config)]
    routes = typed("envoy.config.route.v3.RouteConfiguration", name=ROUTES_NAME, virtual_hosts=[host])
    return Rendered(bootstrap or {}, versioned([routes]), versioned(clusters))


@dataclass
class Running:
    """Envoy with the files in `directory`."""

    directory: Path
    url: str
    admin: Admin
    backend: FakeVllm

    def rendered(self, *models: str) -> Rendered:
        return rendered(*models, url=self.backend.url)

    def ask(self, model: str) -> int:
        return httpx.post(f"{self.url}/{model}/v1/chat/completions", json=BODY, timeout=20).status_code


@pytest.fixture
def envoy(tmp_path: Path) -> Iterator[Running]:
    port = free_port()
    with FakeVllm() as backend:
        admin = tmp_path / "admin.sock"
        first = rendered("a", url=backend.url)
        for name, document in ((CLUSTERS, first.clusters), (ROUTES, first.routes)):
            write(document, tmp_path / name)
        write(_bootstrap(tmp_path, admin, port), tmp_path / "envoy.yaml")
        command = [envoy_path(), "-c", str(tmp_path / "envoy.yaml"), "--disable-hot-restart", "--concurrency", "2"]
        process = subprocess.Popen([*command, "--log-level", "off"])
        try:
            running = Running(tmp_path, f"http://127.0.0.1:{port}", Admin(admin), backend)
            until(lambda: running.ask("a") == 200, 30, "Envoy")
            yield running
        finally:
            process.terminate()
            process.wait()


def _bootstrap(directory: Path, admin: Path, port: int) -> Message:
    manager = extension(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="gatehouse",
        http_filters=[extension("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router")],
        **rds(str(directory / ROUTES), str(directory)),
    )
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    source = {"path": str(directory / CLUSTERS), "watched_directory": {"path": str(directory)}}
    return {
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": {"pipe": {"path": str(admin)}}},
        "static_resources": {"listeners": [{"address": address, "filter_chains": [{"filters": [manager]}]}]},
        "dynamic_resources": {"cds_config": {"path_config_source": source, "resource_api_version": "V3"}},
    }


@pytest.mark.asyncio
async def test_models_come_and_go_and_no_request_meets_a_missing_cluster(envoy: Running) -> None:
    switch = Switch(envoy.directory, envoy.admin, envoy.rendered("a"), linger_s=0.5)
    over, met = threading.Event(), set[int]()

    def call() -> None:
        with httpx.Client(base_url=envoy.url) as client:
            while not over.is_set():
                met.add(client.post("/b/v1/chat/completions", json=BODY).status_code)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    slowest = 0.0
    for _ in range(8):
        for models in (("a", "b"), ("a",)):
            began = time.monotonic()
            await switch.to(envoy.rendered(*models))
            slowest = max(slowest, time.monotonic() - began)
            await asyncio.sleep(0.1)
    over.set()
    for thread in threads:
        thread.join()
    assert met == {200, 404}
    assert slowest < 2


@pytest.mark.asyncio
async def test_a_stream_outlives_even_its_cluster(envoy: Running) -> None:
    switch = Switch(envoy.directory, envoy.admin, envoy.rendered("a"), linger_s=0.0)
    await switch.to(envoy.rendered("a", "b"))
    envoy.backend.script = Script(event_delay_s=0.05)
    lines: list[str] = []

    def stream() -> None:
        url = f"{envoy.url}/b/v1/chat/completions"
        with httpx.stream("POST", url, json={**BODY, "stream": True}, timeout=20) as answer:
            lines.extend(answer.iter_lines())

    thread = threading.Thread(target=stream)
    thread.start()
    await until_async(lambda: envoy.backend.running == 1)
    await asyncio.sleep(0.3)
    await switch.to(envoy.rendered("a"))
    assert switch.due_s() == 0
    await switch.forget()
    assert switch.due_s() is None
    assert await envoy.admin.gauge("cluster_manager.active_clusters") == 1
    assert envoy.backend.running == 1
    assert thread.is_alive()
    await asyncio.to_thread(thread.join)
    assert lines[-2:] == ["data: [DONE]", ""] or lines[-1] == "data: [DONE]"
    assert sum('"content"' in line for line in lines) >= 60


@pytest.mark.asyncio
async def test_what_envoy_refuses_is_told_and_taken_back(envoy: Running) -> None:
    old = envoy.rendered("a")
    switch = Switch(envoy.directory, envoy.admin, old)
    for bad in (
        Rendered({}, old.routes, versioned([{**old.clusters["resources"][0], "connect_timeout": "-1s"}])),
        Rendered({}, versioned([{**old.routes["resources"][0], "virtual_hosts": [{"name": "x"}]}]), old.clusters),
    ):
        with pytest.raises(EnvoyRejectsError, match="Envoy rejected"):
            await switch.to(bad)
        assert switch.rendered is old
    assert envoy.ask("a") == 200
    await switch.to(envoy.rendered("a", "b"))
    assert envoy.ask("b") == 200


@pytest.mark.asyncio
async def test_without_the_admin_socket_the_order_is_kept_with_pauses(envoy: Running) -> None:
    switch = Switch(envoy.directory, Admin(envoy.directory / "none.sock"), envoy.rendered("a"))
    began = time.monotonic()
    await switch.to(envoy.rendered("a", "b"))
    assert time.monotonic() - began < 1.9
    await asyncio.sleep(0.3)
    assert envoy.ask("b") == 200
