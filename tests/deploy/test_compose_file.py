"""What can be said of deploy/compose and deploy/Dockerfile without starting anything."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gatehouse import __version__
from gatehouse.loading.load import load_with_advice
from testkit.running_gateway import ROOT
from tests.deploy.engine import DIRECTORY, Project, no_compose, skip_if

PROFILES = ("vllm", "demo", "observability", "tls")
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
PINNED = re.compile(r":v?\d+(\.\d+)*(-[a-z0-9.-]+)?(@sha256:[0-9a-f]{64})?$")


def services() -> dict[str, dict[str, Any]]:
    """As the file has them, anchors merged, variables not filled in."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((DIRECTORY / "compose.yaml").read_text())["services"]
    return found


def default(text: str) -> str:
    """`${NAME:-value}` -> `value`."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    skip_if(no_compose())
    return Project("gatehouse-parsed", PROFILES, {}, tmp_path_factory.mktemp("env")).config()


def test_compose_reads_the_file_with_every_profile(parsed: dict[str, Any]) -> None:
    assert set(parsed["services"]) == set(services())


def test_vllm_gets_its_gpus_and_splits_the_model_over_them(tmp_path: Path) -> None:
    skip_if(no_compose())
    settings = {"VLLM_GPUS": "4", "VLLM_TENSOR_PARALLEL_SIZE": "4", "MODEL": "some/model"}
    vllm = Project("gatehouse-parsed", ["vllm"], settings, tmp_path).config()["services"]["vllm"]
    reserved = vllm["deploy"]["resources"]["reservations"]["devices"]
    assert reserved == [{"capabilities": ["gpu"], "driver": "nvidia", "count": 4}]
    assert {"--tensor-parallel-size=4", "--model=some/model", "--served-model-name=some/model"} <= set(vllm["command"])


def test_a_profile_given_by_hand_starts_no_other(tmp_path: Path) -> None:
    """`COMPOSE_PROFILES=vllm` in .env, and `--profile demo`: the stub alone."""
    skip_if(no_compose())
    running = Project("gatehouse-parsed", ["demo"], {"COMPOSE_PROFILES": "vllm"}, tmp_path).config()["services"]
    assert "demo" in running
    assert "vllm" not in running


def test_every_image_is_pinned() -> None:
    images = [default(service["image"]) for service in services().values()]
    images += re.findall(r"^ARG \w+_IMAGE=(\S+)", DOCKERFILE, re.MULTILINE)
    assert [image for image in images if not PINNED.search(image)] == []


def test_image_and_compose_name_one_envoy_and_one_version() -> None:
    assert f"ARG ENVOY_IMAGE={default(services()['envoy']['image'])}\n" in DOCKERFILE
    assert default(services()["authz"]["image"]) == f"gatehouse:{__version__}"
    assert f"ARG VERSION={__version__}\n" in DOCKERFILE


def test_every_mounted_file_exists() -> None:
    mounts = [default(mount).split(":")[0] for service in services().values() for mount in service.get("volumes", [])]
    files = [mount for mount in mounts if mount.startswith(".")]
    assert len(files) > 5
    assert [file for file in files if not (DIRECTORY / file).exists()] == []


def test_all_but_the_gpu_server_are_no_root_and_cant_write_to_their_root() -> None:
    for name, service in services().items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        if name != "vllm":
            assert service["read_only"] is True, name
            assert service["user"] not in ("root", "0", "0:0"), name


def test_envoy_and_the_services_are_one_user() -> None:
    """Who else could open their sockets?"""
    sharing = [service for service in services().values() if "run:/run/gatehouse" in service.get("volumes", [])]
    assert len(sharing) == 6
    assert {service["user"] for service in sharing} == {"10001:10001"}


def test_whoever_runs_for_long_has_a_health_check() -> None:
    without = {name for name, service in services().items() if "test" not in service.get("healthcheck", {})}
    assert without == {"prometheus", "grafana", "certificate"}


def test_redis_forgets_nothing() -> None:
    command = " ".join(services()["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert services()["redis"]["volumes"] == ["redis:/data"]
    assert services()["redis"]["networks"] == ["store"]


def test_the_configuration_is_one_that_runs() -> None:
    loaded = load_with_advice(DIRECTORY / "config" / "gatehouse.yaml", {})
    assert loaded.config.redis.url
    assert loaded.config.key_store.type == "redis"
    assert loaded.warnings == ()


def test_the_example_of_env_names_every_variable_and_no_other() -> None:
    example = (DIRECTORY / ".env.example").read_text()
    assigned = set(re.findall(r"^(?:# )?(\w+)=", example, re.MULTILINE)) - {"COMPOSE_PROFILES"}
    used = set(re.findall(r"\$\{(\w+)", (DIRECTORY / "compose.yaml").read_text()))
    assert assigned <= used
    assert {name for name in used - assigned if not name.endswith(("_IMAGE", "_MAXMEMORY"))} == set()


def test_the_example_of_env_has_the_defaults_of_the_file() -> None:
    example = dict(re.findall(r"^(\w+)=(.*)$", (DIRECTORY / ".env.example").read_text(), re.MULTILINE))
    defaults = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", (DIRECTORY / "compose.yaml").read_text()))
    assert {name: value for name, value in example.items() if defaults.get(name, value) != value} == {}


def test_prometheus_has_the_rules_that_ship() -> None:
    ours = yaml.safe_load((DIRECTORY / "prometheus.yml").read_text())
    shipped = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert [name.removeprefix("rules/") for name in ours["rule_files"]] == shipped["rule_files"]
    assert ours["scrape_configs"][0]["job_name"] == shipped["scrape_configs"][0]["job_name"]
