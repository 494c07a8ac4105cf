"""`logs/` that can't be entered any more: told once, and everything goes on; records are written again when it can be.

Root may enter everything, so the gateway runs without that capability (capabilities(7)).
"""

import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.running_gateway import RunningGateway, running_gateway
from tests.integration.conftest import LIMITED, MODEL, short_form

pytestmark = pytest.mark.skipif(
    os.geteuid() == 0 and not shutil.which("setpriv"), reason="root needs setpriv (util-linux)"
)

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningGateway]:
    if os.geteuid() == 0:
        python = tmp_path / "python"
        python.write_text(
            f'#!/bin/sh\nexec setpriv --bounding-set=-dac_override,-dac_read_search {sys.executable} "$@"\n'
        )
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(python))
    with FakeVllm((MODEL,)) as backend, running_gateway(tmp_path, short_form(backend)) as running:
        yield running


def asked(gateway: RunningGateway) -> str:
    with gateway.client(headers={"authorization": f"Bearer {LIMITED}"}) as client:
        answer = client.post("/v1/chat/completions", json=BODY)
    assert answer.status_code == 200
    return str(answer.headers["x-request-id"])


def test_logs_that_can_not_be_entered_end_nobody(gateway: RunningGateway) -> None:
    logs = gateway.directory / "logs"
    before = asked(gateway)
    gateway.record(before)
    logs.chmod(0)
    try:
        children = gateway.children()
        os.kill(children["accesslog-1"], signal.SIGKILL)
        os.kill(children["authz-1"], signal.SIGKILL)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            asked(gateway)
            time.sleep(0.1)
        now = gateway.children()
        same = {"accesslog-0", "ratelimit-0", "authz-0", "envoy"}
        assert {name: now[name] for name in same} == {name: children[name] for name in same}
        starts = {name: gateway.metric("api_worker_starts_total", worker=name) for name in ("accesslog-1", "authz-1")}
        assert starts == {"accesslog-1": 2, "authz-1": 2}, "started again once, and no crash loop"
    finally:
        logs.chmod(0o755)
    time.sleep(1.2)
    after = [asked(gateway) for _ in range(10)]
    assert {gateway.record(request)["status"] for request in after} == {200}
    said = (gateway.directory / "stderr.log").read_text().splitlines()
    again = {line: count for line, count in Counter(said).items() if count > 1 and "written" in line}
    assert not again, "told once"
    assert any("can't be written" in line for line in said)
