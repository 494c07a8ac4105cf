"""The profile tls: Envoy ends TLS with a certificate of its own making, until there is another."""

import json
import ssl
import time
from pathlib import Path

import httpx2 as httpx
import pytest

from testkit.ports import free_port
from tests.deploy.engine import Project, no_compose, no_engine, skip_if
from tests.deploy.load import CHAT, body

pytestmark = [
    pytest.mark.slow,
    pytest.mark.deploy,
]


def test_chats_go_over_tls_and_plaintext_is_told_so(tmp_path: Path) -> None:
    skip_if(no_engine() or no_compose())
    port = free_port()
    settings = {"PORT": str(port), "METRICS_PORT": str(free_port())}
    settings |= {"TLS_CERT_FILE": "/run/tls/tls.crt", "TLS_KEY_FILE": "/run/tls/tls.key"}
    project = Project("gatehouse-tls-test", ["demo", "tls"], settings, tmp_path)
    try:
        project.run("up", "--build", "--wait")
        made = json.loads(project.run("exec", "-T", "authz", "gatehouse", "keys", "create", "--user=alice", "--json"))
        trusted = ssl.create_default_context(cadata=project.run("exec", "-T", "envoy", "cat", "/run/tls/tls.crt"))
        headers = {"Authorization": f"Bearer {made['key']}"}
        time.sleep(2)
        with httpx.Client(base_url=f"https://localhost:{port}", verify=trusted, headers=headers) as client:
            assert client.post(CHAT, json=body(3, stream=True)).text.strip().endswith("data: [DONE]")
        assert httpx.get(f"http://localhost:{port}/v1/models", headers=headers).status_code == 426
    finally:
        project.compose.stop()
        assert project.leftovers() == []
