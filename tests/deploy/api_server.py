"""A real Kubernetes API server with its admission, on loopback: etcd and kube-apiserver, no controllers, no nodes."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from testkit.ports import free_port
from tests.deploy.kubernetes import Manifest, tool

START_TIMEOUT_S = 60
TOOLS = ("etcd", "kube-apiserver", "kubectl")


@dataclass(frozen=True)
class Cluster:
    """A running API server, and how kubectl reaches it."""

    kubeconfig: Path
    admission_log: Path

    def kubectl(self, *arguments: str, given: list[Manifest] = ()) -> "subprocess.CompletedProcess[str]":  # type: ignore[assignment]
        """Run kubectl with `given` as its input."""
        command = [str(tool("kubectl")), "--kubeconfig", str(self.kubeconfig), *arguments]
        text = yaml.safe_dump_all(given)
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=120, check=False)

    def applied(self, *arguments: str, given: list[Manifest]) -> str:
        """Apply `given` strictly; what kubectl says, warnings of the server included. It must succeed."""
        done = self.kubectl("apply", "--server-side", "--validate=strict", *arguments, "-f", "-", given=given)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr


@contextmanager
def api_server(directory: Path) -> Iterator[Cluster]:
    """Skips the test where the programs are not."""
    missing = [name for name in TOOLS if tool(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (make kube-tools)")
    etcd_port, peer_port, port = free_port(), free_port(), free_port()
    key = directory / "service-accounts.pem"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    (directory / "tokens.csv").write_text("secret,admin,admin,system:masters\n")
    etcd_url, peer_url = f"http://127.0.0.1:{etcd_port}", f"http://127.0.0.1:{peer_port}"
    etcd = ["etcd", "--data-dir", str(directory / "etcd"), "--unsafe-no-fsync"]
    etcd += ["--listen-client-urls", etcd_url, "--advertise-client-urls", etcd_url]
    etcd += ["--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url]
    etcd += ["--initial-cluster", f"default={peer_url}"]
    server = ["kube-apiserver", "--etcd-servers", etcd_url, "--cert-dir", str(directory / "certs")]
    server += ["--bind-address", "127.0.0.1", "--secure-port", str(port), "--advertise-address", "127.0.0.1"]
    server += ["--token-auth-file", str(directory / "tokens.csv"), "--authorization-mode", "RBAC"]
    server += ["--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", str(key)]
    server += ["--service-account-signing-key-file", str(key), "--service-cluster-ip-range", "10.0.0.0/24"]
    with ExitStack() as stack:
        for command in (etcd, server):
            stack.enter_context(_running(command, directory / f"{command[0]}.log"))
        cluster = Cluster(_kubeconfig(directory, port), directory / "kube-apiserver.log")
        _wait(cluster)
        yield cluster


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[None]:
    with log.open("w") as out:
        process = subprocess.Popen([str(tool(command[0])), *command[1:]], stdout=out, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _kubeconfig(directory: Path, port: int) -> Path:
    cluster = {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": "secret"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "current-context": "test",
    }
    file = directory / "kubeconfig"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
    with open(descriptor, "w", encoding="utf-8") as out:
        yaml.safe_dump(config, out)
    return file


def _wait(cluster: Cluster) -> None:
    """Until it is ready and has made its first namespace."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if (
            cluster.kubectl("get", "--raw", "/readyz").returncode == 0
            and not cluster.kubectl("get", "ns", "default").returncode
        ):
            return
        time.sleep(0.3)
    raise TimeoutError(cluster.admission_log.read_text()[-3000:])
