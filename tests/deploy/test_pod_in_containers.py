"""The dev overlay's pods in containers as restricted as the manifests say: they serve, and a stream outlives them."""

import base64
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import yaml

from tests.deploy.as_containers import Containers, docker
from tests.deploy.kubelet import running
from tests.deploy.kubernetes import Manifest, built, configuration, named, templates
from tests.deploy.test_gateway_pod import KEY, ask, missing

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def image() -> str:
    """Ours, built from this tree."""
    engine = pytest.importorskip("tests.deploy.engine", reason="needs deploy/Dockerfile")
    engine.skip_if(engine.no_engine())
    if missing():
        pytest.skip(f"this version has no {', '.join(missing())}")
    name: str = engine.image()
    return name


@contextmanager
def network(image: str) -> Iterator[tuple[str, str]]:
    """A container that does nothing, whose network others share, and its address."""
    container = docker("run", "--detach", "--rm", image, "sleep", "600").stdout.strip()
    try:
        where = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        yield container, docker("inspect", "-f", where, container).stdout.strip()
    finally:
        docker("rm", "--force", container, check=False)


def volumes(folder: Path, pod: Manifest, overlay: list[Manifest]) -> dict[str, Path]:
    """A folder for each volume of the pod and of its claims, with what belongs there. Model servers and Redis are on
    this network: 127.0.0.1."""
    spec = pod["spec"]
    mounts = [m for c in [*spec.get("initContainers", []), *spec["containers"]] for m in c["volumeMounts"]]
    found = {mount["name"]: folder / mount["name"] for mount in mounts}
    for place in found.values():
        place.mkdir()
        place.chmod(0o777)
    for volume in spec["volumes"]:
        for name, text in contents(volume, overlay).items():
            file = found[volume["name"]] / name
            file.write_text(text)
            file.chmod(0o444)
    return found


def contents(volume: Manifest, overlay: list[Manifest]) -> dict[str, str]:
    if "configMap" in volume:
        texts: dict[str, str] = named(overlay, "ConfigMap", volume["configMap"]["name"])["data"]
    elif "secret" in volume:
        data: dict[str, Any] = named(overlay, "Secret", volume["secret"]["secretName"])["data"]
        texts = {name: base64.b64decode(value).decode() for name, value in data.items()}
    else:
        texts = {}
    here = {"gatehouse-redis:": "127.0.0.1:", "gatehouse-model-server:": "127.0.0.1:"}
    for theirs, ours in here.items():
        texts = {name: text.replace(theirs, ours) for name, text in texts.items()}
    return texts


def test_pods_serve_as_restricted_as_they_are_and_drain(image: str) -> None:
    overlay = built("overlays/dev")
    assert yaml.safe_load(configuration(overlay))["redis"]["url"] == "file:/run/secrets/redis/url"
    events: list[str] = []
    with tempfile.TemporaryDirectory(prefix="pods-", ignore_cleanup_errors=True) as name, network(image) as (net, host):

        def pod(workload: str) -> AbstractContextManager[None]:
            template, folder = templates(overlay)[workload], Path(name) / workload
            folder.mkdir()
            runtime = Containers(template["spec"], image, volumes(folder, template, overlay), net, host)
            return running(runtime, template)

        with pod("gatehouse-redis"), pod("gatehouse-model-server"):
            with pod("gatehouse"):
                url = f"http://{host}:8000"
                assert ask(url).status_code == 200
                begun = threading.Event()
                reader = threading.Thread(target=stream, args=(url, events, begun))
                reader.start()
                assert begun.wait(20)
                so_far = len(events)
            reader.join(30)
    assert "data: [DONE]" in events[so_far:]


def stream(url: str, events: list[str], begun: threading.Event) -> None:
    """400 tokens of the demo model server, some eight seconds."""
    body = {
        "model": "demo",
        "stream": True,
        "max_tokens": 400,
        "messages": [{"role": "user", "content": "word " * 400}],
    }
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, headers=KEY, timeout=60) as answer:
        for line in answer.iter_lines():
            events.append(line)
            begun.set()
