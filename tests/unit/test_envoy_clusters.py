"""Whom Envoy calls: every worker of every service, and each backend by its own name."""

from pathlib import Path
from typing import Any

import pytest

from gatehouse.config import Config, ConfigError, load
from gatehouse.envoy import names, render
from gatehouse.run_dir import ACCESSLOG_RECEIVERS, RunDir
from tests.envoy_configs import CONFIGS, SHORT

Node = dict[str, Any]
RUN_DIR = RunDir(Path("/run/gatehouse"))


def clusters(config: Config) -> dict[str, Node]:
    rendered = render(config, RUN_DIR, "/dev/null")
    found = [*rendered.bootstrap["static_resources"]["clusters"], *rendered.clusters["resources"]]
    return {each["name"]: each for each in found}


def endpoints(cluster: Node) -> list[tuple[int, str | int, int]]:
    return [
        (group["priority"], each["endpoint"]["hostname"], each["load_balancing_weight"])
        for group in cluster["load_assignment"]["endpoints"]
        for each in group["lb_endpoints"]
    ]


def sockets(cluster: Node) -> list[str]:
    groups = cluster["load_assignment"]["endpoints"]
    return [each["endpoint"]["address"]["pipe"]["path"] for group in groups for each in group["lb_endpoints"]]


def test_every_worker_of_every_service_is_called() -> None:
    config = Config.model_validate({**SHORT, "server": {"workers": 3}, "redis": {"url": "redis://r"}})
    found = clusters(config)
    for service, count in (("authz", 3), ("ratelimit", 3), ("accesslog", ACCESSLOG_RECEIVERS)):
        assert sockets(found[service]) == [f"/run/gatehouse/{service}-{index}.sock" for index in range(count)]
    assert sockets(found[names.GATEWAY]) == [f"/run/gatehouse/accesslog-{i}.http.sock" for i in range(2)]


@pytest.mark.parametrize(("workers", "first"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)])
def test_half_of_the_workers_are_called_and_the_others_stand_by(workers: int, first: int) -> None:
    config = Config.model_validate({**SHORT, "server": {"workers": workers}, "redis": {"url": "redis://r"}})
    found = clusters(config)
    for service in ("authz", "ratelimit"):
        groups = found[service]["load_assignment"]["endpoints"]
        ranks = [(group["priority"], len(group["lb_endpoints"])) for group in groups]
        assert ranks == [(0, first), (1, workers - first)][: 1 + (workers > first)]
    (receivers,) = found["accesslog"]["load_assignment"]["endpoints"]
    assert len(receivers["lb_endpoints"]) == ACCESSLOG_RECEIVERS


def test_counters_in_memory_are_in_one_process() -> None:
    found = clusters(Config.model_validate({**SHORT, "server": {"workers": 3}}))
    assert sockets(found["ratelimit"]) == ["/run/gatehouse/ratelimit-0.sock"]


def test_failover_stands_behind_the_others_whatever_its_number() -> None:
    found = clusters(CONFIGS["long"])
    assert endpoints(found["model:llama"]) == [(0, "gpu-a", 3), (1, "gpu-b", 1)]
    assert endpoints(found["model:mistral"]) == [(0, "gpu-c", 1), (0, "gpu-d", 1)]


def test_each_backend_is_called_by_its_own_name() -> None:
    cluster = clusters(CONFIGS["long"])["model:mistral"]
    assert cluster["transport_socket"]["typed_config"]["auto_host_sni"] is True
    assert cluster["transport_socket"]["typed_config"]["auto_sni_san_validation"] is True
    for each in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]:
        endpoint = each["endpoint"]
        assert endpoint["address"]["socket_address"]["port_value"] == 443
        assert endpoint["health_check_config"] == {"hostname": endpoint["hostname"]}


def test_plain_http_is_not_encrypted() -> None:
    cluster = clusters(CONFIGS["long"])["model:qwen"]
    assert "transport_socket" not in cluster
    ports = [
        each["endpoint"]["address"]["socket_address"]
        for each in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    ]
    assert ports == [{"address": "10.0.0.5", "port_value": 80}, {"address": "fd00::5", "port_value": 8100}]


@pytest.mark.parametrize(("model", "path"), [("llama", "/health"), ("mistral", "/llm/health")])
def test_health_is_asked_where_the_server_answers_it(model: str, path: str) -> None:
    (check,) = clusters(CONFIGS["long"])[f"model:{model}"]["health_checks"]
    assert check["http_health_check"]["path"] == path


def test_no_host_that_is_down_is_called_for_want_of_a_better() -> None:
    for name, cluster in clusters(CONFIGS["long"]).items():
        assert cluster["common_lb_config"]["healthy_panic_threshold"] == {"value": 0}, name
        assert cluster["circuit_breakers"]["thresholds"][0]["max_retries"] > 3, name


MIXED = [("http://a/v1", "https://b/v1"), ("http://a/v1", "http://b/llm/v1")]


@pytest.mark.parametrize(("first", "second"), MIXED)
def test_backends_that_can_share_no_cluster_are_refused(tmp_path: Path, first: str, second: str) -> None:
    file = tmp_path / "gatehouse.yaml"
    file.write_text(f"models:\n  m:\n    backends: [{{url: '{first}'}}, {{url: '{second}'}}]\n")
    with pytest.raises(ConfigError, match=r":3: models\.m\.backends: .* the same scheme and path"):
        load(file, {})


def test_a_path_with_and_without_v1_is_the_same_place(tmp_path: Path) -> None:
    file = tmp_path / "gatehouse.yaml"
    file.write_text("models: {m: {backends: [{url: 'http://a/v1'}, {url: 'http://b'}, {url: 'http://c/'}]}}\n")
    assert len(load(file, {}).models["m"].backends) == 3
