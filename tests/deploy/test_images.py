"""The image, built from this tree and run the way compose and Kubernetes run it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from testcontainers.core.container import DockerContainer

from gatehouse import __version__
from tests.deploy.engine import DIRECTORY, docker, image, no_engine, skip_if

pytestmark = [pytest.mark.slow, pytest.mark.deploy]

LOCKED_DOWN = ("--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges:true", "--tmpfs=/tmp")
TOOLS = "gcc cc ld make git curl wget pip hatchling uv"


@pytest.fixture(scope="module")
def built() -> str:
    skip_if(no_engine())
    return image()


@pytest.fixture(scope="module")
def running(built: str) -> Iterator[str]:
    """A container of the image, and its id."""
    options = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}
    container = DockerContainer(built).with_command("sleep 300").with_tmpfs_mount("/tmp").with_kwargs(**options)
    with container:
        yield container.get_wrapped_container().id


def test_it_is_not_root(running: str) -> None:
    assert docker("exec", running, "id", "-u").strip() == "10001"


def test_its_root_cant_be_written_to(running: str) -> None:
    outcome = docker("exec", running, "sh", "-c", "touch /opt/gatehouse/x 2>&1 || echo refused")
    assert "refused" in outcome


def test_there_is_nothing_to_build_with(running: str) -> None:
    found = docker(
        "exec", running, "sh", "-c", f"for tool in {TOOLS}; do ls /opt/gatehouse/bin/$tool; done 2>/dev/null; :"
    )
    assert found == ""
    found = docker("exec", running, "sh", "-c", "for tool in gcc cc ld make git; do command -v $tool; done; :")
    assert found == ""


def test_labels_say_what_it_is(built: str) -> None:
    labels = json.loads(docker("inspect", built))[0]["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == "gatehouse"
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_its_bill_of_materials_is_what_is_installed(running: str) -> None:
    bill = json.loads(docker("exec", running, "cat", "/opt/gatehouse/sbom.cdx.json"))
    python = [part for part in bill["components"] if part.get("purl", "").startswith("pkg:pypi/")]
    listed = {part["name"].lower().replace("_", "-"): part["version"] for part in python}
    others = {part["name"]: part["version"] for part in bill["components"] if part not in python}
    assert f"/{others['envoy']}/" in docker("exec", running, "envoy", "--version")
    assert others["libc6"] == docker("exec", running, "dpkg-query", "-Wf", "${Version}", "libc6")
    script = "from importlib.metadata import distributions as d; print(*[f'{x.name}=={x.version}' for x in d()])"
    installed = dict(one.split("==") for one in docker("exec", running, "python", "-c", script).split())
    assert bill["bomFormat"] == "CycloneDX"
    assert listed == {name.lower().replace("_", "-"): version for name, version in installed.items()}


def test_its_envoy_accepts_a_configuration(built: str) -> None:
    mount = f"{DIRECTORY / 'config'}:/etc/gatehouse:ro"
    assert docker("run", *LOCKED_DOWN, "-v", mount, built, "gatehouse", "check").strip().endswith("ok")


def test_the_probe_says_who_does_not_answer(running: str) -> None:
    outcome = docker("exec", running, "sh", "-c", "python -m gatehouse.rpc.probe authz 2>&1; echo $?")
    assert outcome.splitlines() == ["no worker of authz answers in /run/gatehouse", "1"]


def test_a_whole_gateway_runs_in_one_container(built: str, tmp_path: Path) -> None:
    """For a first look: `docker run gatehouse gatehouse up`, nothing beside it, and nothing on the host's disk."""
    tmp_path.chmod(0o755)
    (tmp_path / "gatehouse.yaml").write_text(
        "vllm: {base_url: 'http://localhost:8100/v1'}\nlogging: {dir: /tmp/logs}\n"
    )
    health = "import urllib.request as u; print(u.urlopen('http://localhost:8000/health').read().decode())"
    wait = f'until python -c "{health}" 2>/dev/null; do sleep 0.5; done'
    script = f"gatehouse up --or-demo >/dev/null & {wait}; kill %1; wait"
    mount = f"{tmp_path}:/etc/gatehouse:ro"
    out = docker("run", *LOCKED_DOWN, "-v", mount, built, "timeout", "60", "bash", "-c", script)
    assert json.loads(out.splitlines()[0])["status"] == "healthy"
