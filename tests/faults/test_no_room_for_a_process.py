"""`fork` and `pipe` fail while a dead worker is to be replaced: the others serve until there is room again."""

import os
import resource
import signal
import time
from pathlib import Path

import httpx2 as httpx
import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until
from tests.integration.conftest import LIMITED, MODEL, short_form

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}


def statuses(gateway: RunningGateway, count: int = 20) -> set[int]:
    with gateway.client(headers={"authorization": f"Bearer {LIMITED}"}) as client:
        return {client.post("/v1/chat/completions", json=BODY).status_code for _ in range(count)}


def killed(gateway: RunningGateway, name: str) -> None:
    pid = gateway.children()[name]
    os.kill(pid, signal.SIGKILL)
    until(lambda: gateway.children().get(name) != pid, 3, "its end")


@pytest.mark.parametrize("prefork", [True, False])
def test_a_supervisor_without_a_free_descriptor_goes_on(tmp_path: Path, prefork: bool) -> None:
    with FakeVllm((MODEL,)) as backend, running_gateway(tmp_path, short_form(backend)) as gateway:
        if not prefork:
            os.kill(gateway.children()["prefork"], signal.SIGKILL)
        pid = gateway.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
        for name in ("authz-0", "accesslog-1", "ratelimit-0"):
            killed(gateway, name)
        time.sleep(2)
        assert gateway.process.poll() is None
        assert statuses(gateway) == {200}
        assert gateway.children().keys() & {"authz-0", "authz-1", "envoy"} == {"authz-1", "envoy"}
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        until(lambda: {"authz-0", "accesslog-1", "ratelimit-0"} <= gateway.children().keys(), 8, "all of them")
        assert statuses(gateway) == {200}
        assert httpx.get(f"{gateway.url}/health").status_code == 200
        assert gateway.stop() == 0
        said = "".join(path.read_text() for path in gateway.logs("app_*.log"))
        assert said.count("authz-0 can't be started just now") == 1
