"""The chart gives what the kustomize tree gives."""

import json
import subprocess
from typing import Any

import pytest
import yaml

from tests.deploy.kubernetes import CHART, Manifest, built, configuration, documents, templates, tool

HELM = tool("helm")
pytestmark = pytest.mark.skipif(HELM is None, reason="needs helm (make kube-tools)")

PARTS = ["redis", "vllm", "monitoring", "keda", "gateway-api", "ingress"]
ALL_ON = {name: {"enabled": True} for name in ("monitoring", "keda", "gatewayApi", "ingress")}


def chart(values: dict[str, Any]) -> list[Manifest]:
    command = [str(HELM), "template", "gatehouse", str(CHART), "--kube-version", "1.36.0", "--values", "-"]
    done = subprocess.run(
        command, input=json.dumps(values), capture_output=True, text=True, timeout=60, check=False, env={}
    )
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


def by_name(manifests: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    return {(m["kind"], m["metadata"]["name"]): m for m in manifests}


def test_the_chart_gives_what_kustomize_gives() -> None:
    wanted, given = by_name([m for part in ("base", *parts()) for m in built(part)]), by_name(chart(ALL_ON))
    assert given.keys() == wanted.keys()
    config = ("ConfigMap", "gatehouse")
    for name in wanted.keys() - {config}:
        assert given[name] == wanted[name], name
    assert yaml.safe_load(configuration([given[config]])) == yaml.safe_load(configuration([wanted[config]]))


def parts() -> list[str]:
    return [f"components/{part}" for part in PARTS]


def test_parts_can_be_left_out() -> None:
    kinds = {m["kind"] for m in chart({"redis": {"enabled": False}, "vllm": {"enabled": False}})}
    assert "StatefulSet" not in kinds
    assert not kinds & {"PodMonitor", "ScaledObject", "HTTPRoute", "Ingress"}


def test_values_arrive_where_they_belong() -> None:
    volume = {"name": "ca", "configMap": {"name": "ca"}}
    given = chart(
        {
            "image": "registry.example.com/gatehouse:9",
            "autoscaling": {"enabled": False},
            "replicas": 5,
            "vllm": {"gpus": 2, "model": "some/model"},
            "podScheduling": {"nodeSelector": {"pool": "edge"}},
            "extraVolumes": [volume],
            "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca"}],
            "network": {"egress": [{"ports": [{"port": 443}]}]},
        }
    )
    gateway = by_name(given)["Deployment", "gatehouse"]["spec"]
    pod = gateway["template"]["spec"]
    assert (gateway["replicas"], pod["nodeSelector"]) == (5, {"pool": "edge"})
    assert volume in pod["volumes"]
    assert {c["image"] for c in pod["containers"]} == {"registry.example.com/gatehouse:9"}
    assert all(any(m["name"] == "ca" for m in c["volumeMounts"]) for c in [*pod["initContainers"], *pod["containers"]])
    assert "HorizontalPodAutoscaler" not in {m["kind"] for m in given}
    vllm = templates(given)["gatehouse-model-server"]["spec"]["containers"][0]
    assert vllm["args"][0] == "some/model"
    assert "--tensor-parallel-size=2" in vllm["args"]
    assert vllm["resources"]["limits"] == {"memory": "96Gi", "nvidia.com/gpu": 2}
    assert {"ports": [{"port": 443}]} in by_name(given)["NetworkPolicy", "gatehouse"]["spec"]["egress"]
