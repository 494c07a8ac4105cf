"""Build what the tests of deploy/kubernetes use where it is: helm, kube-apiserver and etcd, from their Go modules.

`python scripts/kube_tools.py` needs a Go toolchain and takes some ten minutes the first time, nothing after that. They
land in `~/.cache/gatehouse-kube`, with the schemas of the custom resources that deploy/kubernetes uses.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

TOOLS = Path.home() / ".cache" / "gatehouse-kube"
HELM = "helm.sh/helm/v3/cmd/helm@v3.22.0"
KUBERNETES, STAGING = "v1.36.3", "v0.36.3"
ETCD = "v3.6.14"
CRDS = {
    "sigs.k8s.io/gateway-api@v1.4.1": ["config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"],
    "github.com/kedacore/keda/v2@v2.18.3": ["config/crd/bases/keda.sh_scaledobjects.yaml"],
}
"""Module -> the files of it that define custom resources."""


def go(*arguments: str, cwd: Path | None = None, **environment: str) -> str:
    """Run the Go command. Raises CalledProcessError when it fails."""
    env = {**os.environ, **environment}
    return subprocess.run(["go", *arguments], cwd=cwd, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout


def downloaded(module: str) -> Path:
    """Where the source of `module@version` is, fetched if need be."""
    with tempfile.TemporaryDirectory() as nowhere:
        return Path(json.loads(go("mod", "download", "-json", module, cwd=Path(nowhere)))["Dir"])


def build(name: str, package: str, requirement: str, replacements: str = "") -> None:
    """Build `package` as TOOLS/name. Modules that replace their own parts by local paths can't be installed by name."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        (folder / "go.mod").write_text(f"module tools\n\ngo 1.26\n\nrequire {requirement}\n{replacements}")
        (folder / "tools.go").write_text(f'//go:build tools\n\npackage tools\n\nimport _ "{package}"\n')
        go("build", "-o", str(TOOLS / name), package, cwd=folder, GOFLAGS="-mod=mod")


def kube_apiserver() -> None:
    """Its go.mod has the parts of Kubernetes beside it; as modules they bear versions of their own."""
    parts = re.findall(
        r"^\s*(k8s\.io/\S+) => \./staging", (downloaded(f"k8s.io/kubernetes@{KUBERNETES}") / "go.mod").read_text(), re.M
    )
    replacements = "".join(f"replace {part} => {part} {STAGING}\n" for part in parts)
    build("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", f"k8s.io/kubernetes {KUBERNETES}", replacements)


def main() -> None:
    TOOLS.mkdir(parents=True, exist_ok=True)
    makers = {
        "helm": lambda: go("install", HELM, GOBIN=str(TOOLS)),
        "etcd": lambda: build("etcd", "go.etcd.io/etcd/server/v3", f"go.etcd.io/etcd/server/v3 {ETCD}"),
        "kube-apiserver": kube_apiserver,
    }
    for name, make in makers.items():
        if not (TOOLS / name).exists():
            print(f"building {name} ...", flush=True)
            make()
    for module, files in CRDS.items():
        for file in files:
            shutil.copyfile(downloaded(module) / file, TOOLS / Path(file).name)


if __name__ == "__main__":
    main()
