"""A real API server takes everything, and its admission lets the pods into a namespace that enforces `restricted`."""

from collections.abc import Iterator

import pytest

from tests.deploy.api_server import Cluster, api_server
from tests.deploy.kubernetes import CACHE, OVERLAYS, Manifest, built, documents, named, templates

CRDS = ("gateway.networking.k8s.io_httproutes.yaml", "keda.sh_scaledobjects.yaml")
"""Of the Prometheus operator there are none in a Go module: test_kubernetes.py looks at its objects."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with api_server(tmp_path_factory.mktemp("kubernetes")) as running:
        definitions = [CACHE / name for name in CRDS if (CACHE / name).exists()]
        running.applied(given=[d for file in definitions for d in documents(file.read_text())])
        for file in definitions:
            name = documents(file.read_text())[0]["metadata"]["name"]
            running.kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=30s")
        yield running


def known(cluster: Cluster, manifests: list[Manifest]) -> list[Manifest]:
    """Those whose kind the server has."""
    there = cluster.kubectl("api-versions").stdout.split()
    return [m for m in manifests if m["apiVersion"] in there]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_api_server_takes_an_overlay_without_a_warning(cluster: Cluster, overlay: str) -> None:
    manifests = built(f"overlays/{overlay}")
    namespace = [m for m in manifests if m["kind"] == "Namespace"]
    cluster.applied(given=namespace)
    said = cluster.applied(given=known(cluster, manifests))
    assert "Warning" not in said  # of fields nobody knows, of pods that are not restricted, of what is going away


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_admission_lets_the_pods_in(cluster: Cluster, overlay: str) -> None:
    manifests = built(f"overlays/{overlay}")
    cluster.applied(given=known(cluster, manifests))
    namespace = named(manifests, "Deployment", "gatehouse")["metadata"]["namespace"]
    pods = [pod(name, namespace, template) for name, template in templates(manifests).items()]
    said = cluster.applied(given=pods)
    assert "Warning" not in said


def test_admission_would_refuse_a_pod_that_is_less_restricted(cluster: Cluster) -> None:
    """Else the test above would say nothing."""
    manifests = built("overlays/dev")
    cluster.applied(given=known(cluster, manifests))
    template = templates(manifests)["gatehouse"]
    template["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    done = cluster.kubectl("create", "-f", "-", given=[pod("loose", "gatehouse-dev", template)])
    assert done.returncode
    assert 'violates PodSecurity "restricted' in done.stderr


def pod(name: str, namespace: str, template: Manifest) -> Manifest:
    """A pod as a controller would make it of its template."""
    metadata = {"name": name, "namespace": namespace, **template["metadata"]}
    spec = dict(template["spec"])
    mounted = {m["name"] for c in spec["containers"] for m in c["volumeMounts"]} - {v["name"] for v in spec["volumes"]}
    claims = [{"name": volume, "emptyDir": {}} for volume in mounted]  # in the place of a StatefulSet's own claims
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {**spec, "volumes": [*spec["volumes"], *claims]},
    }
