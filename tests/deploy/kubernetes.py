"""The Kubernetes manifests as tests look at them: built by kustomize, and taken apart."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from testkit.running_gateway import ROOT

TREE = ROOT / "deploy" / "kubernetes"
CHART = ROOT / "deploy" / "helm" / "gatehouse"
CACHE = Path.home() / ".cache" / "gatehouse-kube"
OVERLAYS = ("dev", "production")

Manifest = dict[str, Any]


def tool(name: str) -> str | None:
    """Where the program is: on PATH, or as `make kube-tools` made it."""
    built = CACHE / name
    return shutil.which(name) or (str(built) if built.exists() else None)


def built(folder: str) -> list[Manifest]:
    """What `kubectl apply -k` would send. Skips the test where no kustomize is."""
    kustomize, kubectl = tool("kustomize"), tool("kubectl")
    if not kustomize and not kubectl:
        pytest.skip("needs kustomize or kubectl")
    command = [kustomize, "build"] if kustomize else [kubectl, "kustomize"]
    done = subprocess.run([*command, str(TREE / folder)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


def documents(text: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(text) if document]


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    return next(m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name)


def templates(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The pod templates, by the names of their workloads."""
    return {m["metadata"]["name"]: m["spec"]["template"] for m in manifests if "template" in m.get("spec", {})}


def containers(pod: Manifest) -> Iterator[Manifest]:
    """All containers of a pod template, in the order in which they start."""
    yield from pod["spec"].get("initContainers", [])
    yield from pod["spec"]["containers"]


def configuration(manifests: list[Manifest]) -> str:
    """The text of gatehouse.yaml."""
    text: str = named(manifests, "ConfigMap", "gatehouse")["data"]["gatehouse.yaml"]
    return text
