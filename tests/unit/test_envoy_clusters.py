"""Whom Envoy calls: every worker of every service, and each backend by its own name."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gatehouse.config import Config, ConfigError
from gatehouse.config.run_dir import ACCESSLOG_RECEIVERS, RunDir
from gatehouse.contract import names
from gatehouse.envoy import render
from gatehouse.envoy.endpoints import SYSTEM_AUTHORITIES
from gatehouse.envoy.saturation import slot_shares
from gatehouse.loading.load import load
from gatehouse.loading.upstream_keys import check_upstream_keys
from testkit.envoy_configs import CONFIGS, SHORT

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
        own = [path for path in sockets(found[service]) if f"/{service}-" in path]
        assert own == [f"/run/gatehouse/{service}-{index}.sock" for index in range(count)]
    assert sockets(found[names.PORTAL]) == ["/run/gatehouse/portal.sock"]


@pytest.mark.parametrize(("workers", "first"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)])
def test_half_of_the_workers_are_called_and_the_others_stand_by(workers: int, first: int) -> None:
    options = {"server": {"workers": workers}, "redis": {"url": "redis://r"}, "limits": {"on_failure": "deny"}}
    found = clusters(Config.model_validate({**SHORT, **options}))
    for service in ("authz", "ratelimit"):
        groups = found[service]["load_assignment"]["endpoints"]
        ranks = [(group["priority"], len(group["lb_endpoints"])) for group in groups]
        assert ranks == [(0, first), (1, workers - first)][: 1 + (workers > first)]
    (receivers,) = found["accesslog"]["load_assignment"]["endpoints"]
    assert len(receivers["lb_endpoints"]) == ACCESSLOG_RECEIVERS


def test_counters_in_memory_are_in_one_process() -> None:
    found = clusters(Config.model_validate({**SHORT, "server": {"workers": 3}}))
    assert [path for path in sockets(found["ratelimit"]) if "/ratelimit-" in path] == [
        "/run/gatehouse/ratelimit-0.sock"
    ]


def test_behind_all_workers_of_ratelimit_stands_accesslog_unless_that_is_denied() -> None:
    for on_failure, last in (("allow", "accesslog"), ("deny", "ratelimit")):
        options = {"server": {"workers": 4}, "redis": {"url": "redis://r"}, "limits": {"on_failure": on_failure}}
        groups = clusters(Config.model_validate({**SHORT, **options}))["ratelimit"]["load_assignment"]["endpoints"]
        assert [group["priority"] for group in groups] == list(range(len(groups)))
        behind = [each["endpoint"]["address"]["pipe"]["path"] for each in groups[-1]["lb_endpoints"]]
        assert all(f"/{last}-" in path for path in behind)


def test_one_worker_that_lives_keeps_all_calls_of_its_rank() -> None:
    """Envoy sends part of the calls to the next rank when the healthy part times this factor is below 100 %."""
    ratelimit = clusters(Config.model_validate({**SHORT, "redis": {"url": "redis://r"}}))["ratelimit"]
    assert ratelimit["load_assignment"]["policy"]["overprovisioning_factor"] / 256 > 100
    assert "outlier_detection" not in ratelimit


def test_failover_stands_behind_the_others_whatever_its_number() -> None:
    found = clusters(CONFIGS["long"])
    assert endpoints(found["model:llama"]) == [(0, "gpu-a", 3), (1, "gpu-b", 1)]
    assert endpoints(found["model:mistral"]) == [(0, "gpu-c", 1), (0, "gpu-d", 1)]


def test_each_backend_is_called_by_its_own_name() -> None:
    cluster = clusters(CONFIGS["long"])["model:mistral"]
    (match,) = cluster["transport_socket_matches"]
    assert match["transport_socket"]["typed_config"]["auto_host_sni"] is True
    assert match["transport_socket"]["typed_config"]["auto_sni_san_validation"] is True
    for each in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]:
        endpoint = each["endpoint"]
        assert endpoint["address"]["socket_address"]["port_value"] == 443
        assert endpoint["health_check_config"] == {"hostname": endpoint["hostname"]}


def test_each_backend_has_a_transport_and_authorities_of_its_own() -> None:
    cluster = clusters(CONFIGS["replicas"])["model:llama"]
    authorities = {
        each["name"]: each["transport_socket"]["typed_config"]["common_tls_context"]["validation_context"]
        for each in cluster["transport_socket_matches"]
    }
    trusted = {"trusted_ca": {"filename": SYSTEM_AUTHORITIES}}
    assert authorities == {f"by name {SYSTEM_AUTHORITIES}": trusted, "by name ": trusted}
    (first, second) = cluster["load_assignment"]["endpoints"]
    wanted = [each.get("metadata", {}).get("filter_metadata", {}) for each in first["lb_endpoints"]]
    assert wanted == [{}, {"envoy.transport_socket_match": {"tls": "by name", "ca_file": SYSTEM_AUTHORITIES}}]
    assert second["lb_endpoints"][0]["metadata"]["filter_metadata"] == {
        "envoy.transport_socket_match": {"tls": "by name", "ca_file": ""}
    }


def test_an_https_address_is_looked_for_in_the_certificate() -> None:
    model = {"backends": [{"url": "https://10.0.0.5"}, {"url": "https://[fd00::05]"}, {"url": "https://gpu"}]}
    cluster = clusters(Config.model_validate({"models": {"m": model}}))["model:m"]
    contexts = [each["transport_socket"]["typed_config"] for each in cluster["transport_socket_matches"]]
    names_ = [
        [each["matcher"]["exact"] for each in validation.get("match_typed_subject_alt_names", ())]
        for validation in (context["common_tls_context"]["validation_context"] for context in contexts)
    ]
    assert names_ == [["10.0.0.5"], ["fd00::5"], []]
    assert [context.get("auto_sni_san_validation") for context in contexts] == [None, None, True]


def test_plain_http_is_not_encrypted() -> None:
    cluster = clusters(CONFIGS["long"])["model:qwen"]
    assert "transport_socket_matches" not in cluster
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
        assert cluster["common_lb_config"].get("update_merge_window") == ("0s" if name.startswith("model:") else None)
        for threshold in cluster["circuit_breakers"]["thresholds"]:
            assert threshold.get("max_retries", 0) > 3 or threshold["retry_budget"]["min_retry_concurrency"] > 3, name


def test_backends_at_different_paths_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "gatehouse.yaml"
    file.write_text("models:\n  m:\n    backends: [{url: 'http://a/v1'}, {url: 'http://b/llm/v1'}]\n")
    with pytest.raises(ConfigError, match=r":3: models\.m\.backends: .* the same path, and these have /, /llm"):
        load(file, {})


@pytest.mark.parametrize(
    ("balance", "policy"),
    [("least_request", "LEAST_REQUEST"), ("round_robin", "ROUND_ROBIN"), ("session_affinity", "MAGLEV")],
)
def test_a_model_is_balanced_as_it_says(balance: str, policy: str) -> None:
    model = {"backends": [{"url": "http://a"}, {"url": "http://b"}], "balance": balance}
    assert clusters(Config.model_validate({"models": {"m": model}}))["model:m"]["lb_policy"] == policy


def test_slots_bound_each_replica_and_the_queue_before_it() -> None:
    model = {"backends": [{"url": "http://a"}], "concurrent_requests_per_backend": 8, "queued_requests": 30}
    breakers = clusters(Config.model_validate({"models": {"m": model}}))["model:m"]["circuit_breakers"]
    assert breakers["per_host_thresholds"] == [{"max_connections": 8}]
    assert [each["max_pending_requests"] for each in breakers["thresholds"]] == [30]


def test_slots_are_divided_by_weight() -> None:
    breakers = clusters(CONFIGS["replicas"])["model:llama"]["circuit_breakers"]
    assert breakers["per_host_thresholds"] == [
        {"max_connections": 1},
        {"priority": "HIGH", "max_connections": 15},
    ]
    assert [(each.get("priority"), each["max_pending_requests"]) for each in breakers["thresholds"]] == [
        (None, 20),
        ("HIGH", 20),
    ]


@given(st.lists(st.integers(1, 100), min_size=2, max_size=6), st.integers(2, 16384))
def test_every_class_has_a_slot_and_together_they_have_all(weights: list[int], slots: int) -> None:
    assume(len(set(weights)) > 1)
    tiers = {f"t{index}": {"weight": weight} for index, weight in enumerate(weights)}
    config = Config.model_validate({"models": {"m": {"backends": [{"url": "http://a"}]}}, "rate_limits": tiers})
    shares = slot_shares(config, slots)
    assert sum(shares) == slots
    assert min(shares) >= 1


def test_without_slots_and_weights_nothing_is_bounded() -> None:
    breakers = clusters(CONFIGS["long"])["model:llama"]["circuit_breakers"]
    assert "per_host_thresholds" not in breakers
    assert [(each.get("priority"), each["max_pending_requests"]) for each in breakers["thresholds"]] == [(None, 16384)]


def test_no_rendered_file_holds_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTREAM", "canary-4711")
    model = {"backends": [{"url": "http://a"}], "upstream_api_key": "env:UPSTREAM"}
    config = Config.model_validate({"models": {"m": model, "n": {"backends": [{"url": "http://b"}]}}})
    rendered = render(config, RUN_DIR, "/dev/null")
    assert "canary" not in str(rendered.files())
    ((name, file),) = rendered.secrets.items()
    assert [each["generic_secret"] for each in file["resources"]] == [{"secret": {"environment_variable": "UPSTREAM"}}]
    assert list(rendered.files()).index(name) < list(rendered.files()).index("clusters.yaml")
    wanted = {name: "credential_injector" in str(each) for name, each in clusters(config).items()}
    assert [name for name, wants in wanted.items() if wants] == ["model:m"]


def test_without_credentials_there_is_no_file_of_secrets() -> None:
    assert list(render(CONFIGS["long"], RUN_DIR, "/dev/null").files()) == ["envoy.yaml", "routes.yaml", "clusters.yaml"]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "environment variable UPSTREAM: models.m.upstream_api_key: is not set"),
        ({"UPSTREAM": ""}, "the secret is empty"),
        ({"UPSTREAM": "can\nary"}, "not valid in a header: it contains control characters"),
    ],
)
def test_a_credential_that_cannot_be_used_is_told_before_the_start(environment: dict[str, str], said: str) -> None:
    model = {"backends": [{"url": "http://a"}], "upstream_api_key": "env:UPSTREAM"}
    with pytest.raises(ConfigError, match=said) as refused:
        check_upstream_keys(Config.model_validate({"models": {"m": model}}), environment)
    assert "nary" not in str(refused.value)


def test_a_path_with_and_without_v1_is_the_same_place(tmp_path: Path) -> None:
    file = tmp_path / "gatehouse.yaml"
    file.write_text("models: {m: {backends: [{url: 'http://a/v1'}, {url: 'http://b'}, {url: 'http://c/'}]}}\n")
    assert len(load(file, {}).models["m"].backends) == 3
