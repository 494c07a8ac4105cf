"""The manifests fit together and the API of the last three versions of Kubernetes, and are as locked down as can be."""

import base64
import functools
import itertools
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from gatehouse import __version__
from gatehouse.loading.complete import KeyFiles
from gatehouse.loading.key_table import KeyRetention, KeyTable
from gatehouse.loading.load import load
from scripts import kubernetes
from tests.deploy.kubernetes import CHART, OVERLAYS, Manifest, built, configuration, containers, named, templates

VERSIONS = ("1.35", "1.36", "1.37")
CUSTOM = ("monitoring.coreos.com", "keda.sh", "gateway.networking.k8s.io")
EVERYTHING = (*(f"overlays/{name}" for name in OVERLAYS), "components/ingress")

manifests = functools.cache(built)


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[Manifest]:
    return manifests(f"overlays/{request.param}")


@pytest.fixture(scope="module")
def production() -> list[Manifest]:
    return manifests("overlays/production")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", EVERYTHING)
def test_every_manifest_fits_the_api(folder: str, version: str) -> None:
    for manifest in manifests(folder):
        if not manifest["apiVersion"].startswith(CUSTOM):
            kubernetes_validate.validate(manifest, version, strict=True)


def test_what_is_made_from_other_files_is_as_it_would_be_made() -> None:
    stale = [path.name for path, text in kubernetes.made().items() if not path.exists() or path.read_text() != text]
    assert not stale, "make manifests"


def test_pods_are_restricted(overlay: list[Manifest]) -> None:
    """Pod Security Standards, "restricted" (https://kubernetes.io/docs/concepts/security/pod-security-standards/), and
    beyond it: a read-only root, no token, memory within bounds."""
    for name, pod in templates(overlay).items():
        spec, context = pod["spec"], pod["spec"]["securityContext"]
        assert (context["runAsNonRoot"], context["runAsUser"] > 0) == (True, True), name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}, name
        for container in containers(pod):
            where, security = f"{name}/{container['name']}", container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, where
            assert security["readOnlyRootFilesystem"] is True, where
            assert security["capabilities"] == {"drop": ["ALL"]}, where
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}, where
            assert "memory" in container["resources"]["limits"], where


def test_namespaces_enforce_what_the_pods_keep_to(overlay: list[Manifest]) -> None:
    namespace = next(m for m in overlay if m["kind"] == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {m["metadata"].get("namespace") for m in overlay if m is not namespace} == {namespace["metadata"]["name"]}


def test_everything_runs_under_an_account_without_a_token(overlay: list[Manifest]) -> None:
    for pod in templates(overlay).values():
        account = named(overlay, "ServiceAccount", pod["spec"]["serviceAccountName"])
        assert account["automountServiceAccountToken"] is False


def test_secrets_come_as_files(overlay: list[Manifest]) -> None:
    for pod in templates(overlay).values():
        for container in containers(pod):
            assert "envFrom" not in container
            assert not any("secretKeyRef" in variable.get("valueFrom", {}) for variable in container.get("env", []))


def test_whatever_is_mounted_is_there_and_follows_changes(overlay: list[Manifest]) -> None:
    there = {(m["kind"], m["metadata"]["name"]) for m in overlay}
    for pod in templates(overlay).values():
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        claims = {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v}
        maps = {v["configMap"]["name"] for v in volumes.values() if "configMap" in v}
        assert {("PersistentVolumeClaim", claim) for claim in claims} | {("ConfigMap", name) for name in maps} <= there
        for container in containers(pod):
            for mount in container["volumeMounts"]:
                assert mount["name"] in {*volumes, "data"}  # a StatefulSet's own claim
                assert "subPath" not in mount  # changes of a ConfigMap or Secret never reach one


def test_services_and_policies_meet_their_pods(overlay: list[Manifest]) -> None:
    pods = list(templates(overlay).values())

    def meant(selector: dict[str, str]) -> list[Manifest]:
        return [pod for pod in pods if selector.items() <= pod["metadata"]["labels"].items()]

    for manifest in overlay:
        if manifest["kind"] == "Service":
            found = meant(manifest["spec"]["selector"])
            names = {port["name"] for pod in found for c in containers(pod) for port in c.get("ports", [])}
            assert {port["targetPort"] for port in manifest["spec"]["ports"]} <= names, manifest["metadata"]["name"]
        if manifest["kind"] in ("Deployment", "StatefulSet"):
            selector = manifest["spec"]["selector"]["matchLabels"]
            assert meant(selector) == [manifest["spec"]["template"]]
        if manifest["kind"] in ("NetworkPolicy", "PodDisruptionBudget"):
            selector = manifest["spec"].get("podSelector") or manifest["spec"]["selector"]
            assert len(meant(selector["matchLabels"])) == 1, manifest["metadata"]["name"]


def test_every_pod_is_behind_a_policy_and_none_is_open_to_all(overlay: list[Manifest]) -> None:
    policies = [m["spec"] for m in overlay if m["kind"] == "NetworkPolicy"]
    for pod in templates(overlay).values():
        labels = pod["metadata"]["labels"].items()
        assert any(policy["podSelector"]["matchLabels"].items() <= labels for policy in policies)
    for policy in policies:
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert all(rule.get("from") and rule.get("ports") for rule in policy["ingress"])


@pytest.mark.parametrize(("target", "port"), [("gatehouse-redis", 6379), ("gatehouse-model-server", 8100)])
def test_only_the_gateway_reaches_redis_and_model_servers(overlay: list[Manifest], target: str, port: int) -> None:
    """Prometheus, too, comes to a model server: its metrics are on the port that serves."""
    policy = named(overlay, "NetworkPolicy", target)["spec"]
    gateway = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "gatehouse"}}}
    prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    peers = [peer for rule in policy["ingress"] for peer in rule["from"]]
    assert peers == ([gateway] if target == "gatehouse-redis" else [gateway, prometheus])
    assert {p["port"] for rule in policy["ingress"] for p in rule["ports"]} == {port}


def test_a_proxy_is_believed_only_where_nobody_else_gets_in(production: list[Manifest]) -> None:
    config = yaml.safe_load(configuration(production))
    clients = named(production, "NetworkPolicy", "gatehouse")["spec"]["ingress"][0]["from"]
    assert config["server"]["trusted_proxy_hops"] == 1
    assert {"namespaceSelector": {}} not in clients


@pytest.mark.parametrize("folder", ["base", *(f"overlays/{name}" for name in OVERLAYS)])
def test_the_configuration_is_good(folder: str, tmp_path: Path) -> None:
    file = tmp_path / "gatehouse.yaml"
    file.write_text(configuration(manifests(folder)))
    config = load(file)
    assert config.logging.dir == "/var/log/gatehouse"
    assert config.server.metrics_host == "0.0.0.0"
    assert "workers" in config.server.model_fields_set  # else one a core of the node


def test_the_dev_overlays_keys_are_good(tmp_path: Path) -> None:
    keys = manifests("overlays/dev")
    secret = named(keys, "Secret", "gatehouse-keys")["data"]
    (tmp_path / "keys.yaml").write_bytes(base64.b64decode(secret["keys.yaml"]))
    (tmp_path / "gatehouse.yaml").write_text(
        configuration(keys).replace("/run/secrets/gatehouse/keys.yaml", str(tmp_path / "keys.yaml"))
    )
    KeyFiles().check(tmp_path / "gatehouse.yaml", load(tmp_path / "gatehouse.yaml"), KeyTable(KeyRetention.RECORDS))


def test_pods_have_the_time_that_draining_takes(overlay: list[Manifest]) -> None:
    drain_s = yaml.safe_load(configuration(overlay))["server"]["drain_s"]
    gateway = named(overlay, "Deployment", "gatehouse")["spec"]["template"]["spec"]
    assert gateway["terminationGracePeriodSeconds"] >= drain_s + 50


def test_the_gateway_stops_in_the_order_of_gatehouse_up(production: list[Manifest]) -> None:
    """Sidecars stop in the opposite order: Envoy first, ratelimit last (gatehouse/gateway/run.py)."""
    spec = named(production, "Deployment", "gatehouse")["spec"]["template"]["spec"]
    sidecars = [c["name"] for c in spec["initContainers"] if c.get("restartPolicy") == "Always"]
    assert sidecars == ["ratelimit", "portal", "accesslog", "authz", "envoy"]
    assert [c["name"] for c in spec["containers"]] == ["config"]
    assert "gatehouse drain" in spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]


def test_no_probe_asks_for_the_health_of_model_servers(production: list[Manifest]) -> None:
    pod = named(production, "Deployment", "gatehouse")["spec"]["template"]
    probes = [c[kind] for c in containers(pod) for kind in ("readinessProbe", "livenessProbe") if kind in c]
    assert len(probes) == 7
    assert not any(probe.get("httpGet", {}).get("path") == "/health" for probe in probes)


def test_envoy_sheds_load_before_it_is_killed(production: list[Manifest]) -> None:
    pod = named(production, "Deployment", "gatehouse")["spec"]["template"]
    envoy = next(c for c in containers(pod) if c["name"] == "envoy")
    limit = re.fullmatch(r"(\d+)Mi", envoy["resources"]["limits"]["memory"])
    assert limit
    config = yaml.safe_load(configuration(production))
    assert int(limit[1]) > config["server"]["max_memory_mb"]


def test_envoy_drains_at_once_and_writes_its_log_every_second(production: list[Manifest]) -> None:
    """As `gatehouse up` starts it: reconciliation takes a line that is half a minute late for a lost one."""
    pod = named(production, "Deployment", "gatehouse")["spec"]["template"]
    command = next(c for c in containers(pod) if c["name"] == "envoy")["command"]
    given = dict(itertools.pairwise(command))
    assert (given["--drain-strategy"], given["--file-flush-interval-msec"]) == ("immediate", "1000")


def test_every_pod_has_its_share_of_the_limits_when_redis_is_gone(production: list[Manifest]) -> None:
    most = named(production, "HorizontalPodAutoscaler", "gatehouse")["spec"]["maxReplicas"]
    assert yaml.safe_load(configuration(production))["redis"]["gateways"] == most


def test_a_model_is_spread_over_the_gpus_it_asks_for(production: list[Manifest]) -> None:
    pod = named(production, "Deployment", "gatehouse-model-server")["spec"]["template"]
    vllm = pod["spec"]["containers"][0]
    assert f"--tensor-parallel-size={vllm['resources']['limits']['nvidia.com/gpu']}" in vllm["args"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in vllm["volumeMounts"]
    models = yaml.safe_load(configuration(production))["models"]
    assert vllm["args"][0] in models


def test_redis_forgets_nothing(production: list[Manifest]) -> None:
    conf = named(production, "ConfigMap", "gatehouse-redis")["data"]["redis.conf"]
    assert "appendonly yes" in conf
    assert "maxmemory-policy noeviction" in conf


def test_prometheus_knows_the_gateway_by_the_name_that_rules_use(production: list[Manifest]) -> None:
    for monitor in (m for m in production if m["kind"] == "PodMonitor"):
        name, spec = monitor["metadata"]["name"], monitor["spec"]
        pod = templates(production)[name]
        assert pod["metadata"]["labels"][spec["jobLabel"]] == name
        ports = {port["name"] for container in containers(pod) for port in container.get("ports", [])}
        assert {endpoint["port"] for endpoint in spec["podMetricsEndpoints"]} <= ports


def test_model_servers_scale_on_what_waits_for_them(production: list[Manifest]) -> None:
    scaled = named(production, "ScaledObject", "gatehouse-model-server")["spec"]
    assert scaled["scaleTargetRef"]["name"] in templates(production)
    assert 'vllm:num_requests_waiting{job="gatehouse-model-server"}' in scaled["triggers"][0]["metadata"]["query"]


def test_images_bear_the_version() -> None:
    base = manifests("base")
    images = {c["image"] for pod in templates(base).values() for c in containers(pod)}
    assert images == {f"gatehouse:{__version__}", "envoyproxy/envoy:v1.40.2"}
    chart: dict[str, Any] = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__
