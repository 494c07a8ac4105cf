"""What the product is made of is known by hash, listed, and looked up."""

import hashlib
import importlib.util
import json
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from scripts import audit, digests
from testkit.running_gateway import ROOT

SBOM = ROOT / "deploy" / "sbom.py"
ENVOY_SH = ROOT / "deploy" / "systemd" / "envoy.sh"
DIGEST = "sha256:" + "a" * 64
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

MENDED = {
    "aiohttp": "3.13.3",  # CVE-2025-69223 and those with it
    "cryptography": "46.0.5",  # CVE-2026-26007
    "duckdb": "1.4.2",  # CVE-2025-64429
    "hpack": "4.1",
    "protobuf": "6.33.5",  # CVE-2026-0994
    "pyjwt": "2.12",  # CVE-2026-32597
}
"""The first version without what is known of it; older ones must not satisfy us."""


@pytest.mark.parametrize("name", MENDED)
def test_no_dependency_may_be_older_than_its_fixes(name: str) -> None:
    (wanted,) = (each for each in map(Requirement, PROJECT["dependencies"]) if each.name == name)
    (floor,) = (Version(each.version) for each in wanted.specifier if each.operator == ">=")
    assert floor >= Version(MENDED[name])


class Registry(BaseHTTPRequestHandler):
    """Wants a token, as Docker Hub does."""

    def do_HEAD(self) -> None:
        if self.headers.get("Authorization") != "Bearer let-me-in":
            self.send_response(401)
            port = self.server.server_address[1]  # type: ignore[index]
            realm = f"http://127.0.0.1:{port}/token"
            self.send_header("WWW-Authenticate", f'Bearer realm="{realm}",service="hub",scope="repository:x:pull"')
        elif self.path == "/v2/library/redis/manifests/7-bookworm" and "oci.image.index" in self.headers["Accept"]:
            self.send_response(200)
            self.send_header("Docker-Content-Digest", DIGEST)
        else:
            self.send_response(404)
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"token": "let-me-in"}')

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def registry() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_tag_is_looked_up_as_registries_want_it(registry: str) -> None:
    assert digests.of_registry("redis", "7-bookworm", registry) == DIGEST
    with pytest.raises(OSError, match="404"):
        digests.of_registry("redis", "none", registry)


@pytest.mark.parametrize(
    "line",
    [
        "    image: ${REDIS_IMAGE:-redis:7-bookworm}\n",
        "ARG REDIS_IMAGE=redis:7-bookworm\n",
        "image: redis:7-bookworm # {{ x }}\n",
    ],
)
def test_an_image_is_pinned_and_pinned_anew(line: str) -> None:
    once = digests.pinned(line, lambda _name, _tag: "sha256:" + "b" * 64)
    again = digests.pinned(once, lambda _name, _tag: DIGEST)
    assert again == line.replace("redis:7-bookworm", f"redis:7-bookworm@{DIGEST}")
    assert (digests.unpinned(line), digests.unpinned(again)) == (["redis:7-bookworm"], [])


def test_our_own_image_has_no_digest_to_know() -> None:
    line = "image: gatehouse:0.1.0\n"
    assert digests.pinned(line, lambda _name, _tag: DIGEST) == line
    assert digests.unpinned(line) == []


def test_every_image_of_deploy_is_one_that_would_be_pinned() -> None:
    found = {
        each["name"]
        for pattern in digests.FILES
        for path in digests.DEPLOY.glob(pattern)
        for each in digests.IMAGE.finditer(path.read_text())
    }
    assert found == {
        "gatehouse", "python", "envoyproxy/envoy", "redis", "vllm/vllm-openai", "prom/prometheus", "grafana/grafana"
    }  # fmt: skip


def test_a_release_whose_images_have_no_digests_fails_in_the_forge() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "supply-chain.yaml").read_text())
    assert workflow[True]["push"] == {"tags": ["v*"]}  # YAML 1.1 reads `on` so
    (check,) = (step["run"] for step in workflow["jobs"]["pinned"]["steps"] if "run" in step)
    lacking = any(
        digests.unpinned(path.read_text()) for pattern in digests.FILES for path in digests.DEPLOY.glob(pattern)
    )
    done = subprocess.run(check.split(), cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "Dockerfile: python:" in done.stdout) == (int(lacking), lacking)


def test_an_audit_in_the_forge_does_not_pass_for_want_of_a_database() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "supply-chain.yaml").read_text())["jobs"]
    assert any("make audit AUDIT=--strict" in step.get("run", "") for step in jobs["bump"]["steps"])


def report(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"dependencies": list(entries)}


SKIPPED = {"name": "a", "skip_reason": "Dependency not found on PyPI and could not be audited: a (1)"}
CLEAN = {"name": "b", "version": "1", "vulns": []}
BAD = {"name": "c", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}


def test_an_audit_without_a_database_does_not_look_like_a_good_one() -> None:
    status, said = audit.verdict([report(SKIPPED)], strict=False)
    assert (status, "nothing was audited" in said[0]) == (0, True)
    assert audit.verdict([], strict=True)[0] == audit.UNKNOWN


def test_an_audit_fails_for_what_is_known() -> None:
    assert audit.verdict([report(CLEAN, SKIPPED)], strict=True)[0] == 0
    assert audit.verdict([report(CLEAN), report(BAD)], strict=False) == (1, ["c 1: CVE-1, fixed in 2"])


def test_the_oldest_of_every_dependency_is_audited() -> None:
    assert len(audit.floors(PROJECT).splitlines()) == len(PROJECT["dependencies"])


def test_the_bill_lists_debian_and_envoy_too(tmp_path: Path) -> None:
    bom, status = tmp_path / "bom.json", tmp_path / "status"
    bom.write_text(json.dumps({"bomFormat": "CycloneDX", "components": [{"name": "aiohttp", "version": "3"}]}))
    status.write_text(
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u10\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n"
    )
    said = "\n/usr/local/bin/envoy  version: 0123abc/1.40.2/Clean/RELEASE/BoringSSL\n"
    subprocess.run([sys.executable, str(SBOM), str(bom), str(status), said], check=True)
    parts = {part["name"]: part for part in json.loads(bom.read_text())["components"]}
    assert set(parts) == {"aiohttp", "envoy", "libc6"}
    assert parts["libc6"]["purl"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64"
    assert parts["envoy"]["cpe"].startswith("cpe:2.3:a:envoyproxy:envoy:1.40.2:")


def test_the_bill_of_a_real_machine() -> None:
    status = Path("/var/lib/dpkg/status")
    if not status.exists():
        pytest.skip("needs a Debian")
    spec = importlib.util.spec_from_file_location("sbom", SBOM)
    assert spec
    assert spec.loader
    sbom = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sbom)
    assert {"libc6", "dpkg"} <= {part["name"] for part in sbom.debian(status.read_text())}


def installed(source: Path, sum_: str, target: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(ENVOY_SH), str(source), sum_, str(target)], capture_output=True, text=True, check=False)


def test_envoys_release_is_taken_by_its_hash_alone(tmp_path: Path) -> None:
    source, target = tmp_path / "download", tmp_path / "envoy"
    source.write_bytes(b"#!/bin/sh\n")
    assert installed(source, hashlib.sha256(source.read_bytes()).hexdigest(), target).returncode == 0
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (source.read_bytes(), 0o755)
    source.write_bytes(b"#!/bin/sh\necho changed\n")
    refused = installed(source, hashlib.sha256(target.read_bytes()).hexdigest(), target)
    assert (refused.returncode, "nothing was installed" in refused.stderr) == (1, True)
    assert target.read_bytes() == b"#!/bin/sh\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["download", "envoy"]
