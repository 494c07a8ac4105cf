"""Large bodies of any shape: Envoy holds about as much as was sent, and nobody else waits."""

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx2 as httpx
import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.fakes.script import Script
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until
from tests.integration.conftest import MODEL, PREMIUM, short_form

pytestmark = pytest.mark.alone

MIB = 2**20
CHAT = "/v1/chat/completions"
HEADERS = {"authorization": f"Bearer {PREMIUM}", "content-type": "application/json"}
SHAPES: dict[str, bytes] = {
    "zeros": b'{"model":"m","x":[' + b"0," * (15 * MIB) + b"0]}",
    "objects": b'{"model":"m","x":[' + b"{}," * (10 * MIB) + b"{}]}",
    "a string": b'{"model":"m","messages":[],"x":"' + b"x" * (31 * MIB) + b'"}',
    "messages": json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": "Hello. " * 20}] * 150_000}
    ).encode(),
}


@pytest.fixture(scope="module")
def backend() -> Iterator[FakeVllm]:
    with FakeVllm((MODEL,)) as fake:
        yield fake


@pytest.fixture
def gateway(backend: FakeVllm, tmp_path: Path) -> Iterator[RunningGateway]:
    config: dict[str, Any] = short_form(backend)
    config["api_keys"] = {PREMIUM: {"user_id": "a", "tier": "unlimited"}}
    with running_gateway(tmp_path, {**config, "server": {"max_memory_mb": 2048}}) as running:
        yield running


def rss_mib(gateway: RunningGateway) -> float:
    pages = int(Path(f"/proc/{gateway.children()['envoy']}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


class Watch:
    """The memory of Envoy, and how long a small request takes meanwhile."""

    def __init__(self, gateway: RunningGateway) -> None:
        self.before, self.most, self.waits = rss_mib(gateway), 0.0, list[float]()
        self._gateway, self._over = gateway, threading.Event()
        self._threads = [threading.Thread(target=each) for each in (self._weigh, self._ask)]

    def __enter__(self) -> "Watch":
        for thread in self._threads:
            thread.start()
        time.sleep(0.3)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _weigh(self) -> None:
        while not self._over.wait(0.005):
            self.most = max(self.most, rss_mib(self._gateway))

    def _ask(self) -> None:
        with self._gateway.client(headers=HEADERS) as client:
            while not self._over.is_set():
                began = time.perf_counter()
                assert client.get("/v1/models").status_code == 200
                self.waits.append(time.perf_counter() - began)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_large_body_takes_no_more_memory_than_twice_its_size(gateway: RunningGateway, shape: str) -> None:
    body = SHAPES[shape]
    with Watch(gateway) as watch:
        answer = httpx.post(gateway.url + CHAT, content=body, headers=HEADERS, timeout=60)
    assert answer.status_code in ((413,) if shape in ("zeros", "objects") else (200, 400, 404)), answer.text
    grown = watch.most - watch.before
    print(
        f"{shape}: {len(body) / MIB:.0f} MiB, Envoy +{grown:.0f} MiB, others at most {max(watch.waits) * 1000:.0f} ms"
    )
    assert grown < 2.2 * len(body) / MIB + 20
    assert quantiles(watch.waits, n=10)[-1] < 0.1, "others wait"


@pytest.mark.parametrize("megabytes", [2, 20])
def test_three_senders_of_large_streams_hold_nobody_up(
    gateway: RunningGateway, backend: FakeVllm, monkeypatch: pytest.MonkeyPatch, megabytes: int
) -> None:
    monkeypatch.setattr(backend, "script", Script(status=200, body=b'{"usage":{"total_tokens":9}}'))
    words = "Hello. " * (megabytes * MIB // 7)
    body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": words}]}).encode()

    def send() -> None:
        with gateway.client() as client:
            while time.monotonic() < end:
                client.post(CHAT, content=body, headers=HEADERS)

    with Watch(gateway) as watch:
        until(lambda: len(watch.waits) > 50, 20)
        alone, sent_at = quantiles(watch.waits, n=10)[-1], len(watch.waits)
        end = time.monotonic() + 4
        senders = [threading.Thread(target=send) for _ in range(3)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
    beside = quantiles(watch.waits[sent_at:], n=10)[-1]
    print(f"{megabytes} MB: others' p90 {alone * 1000:.0f} ms alone, {beside * 1000:.0f} ms beside")
    assert beside < alone + 0.1


def test_many_large_bodies_at_once_leave_envoy_alive_and_others_served(gateway: RunningGateway) -> None:
    envoy = gateway.children()["envoy"]
    with Watch(gateway) as watch:
        senders = [
            threading.Thread(
                target=httpx.post,
                args=(gateway.url + CHAT,),
                kwargs={"content": body, "headers": HEADERS, "timeout": 60},
            )
            for body in [SHAPES["zeros"]] * 8
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
    print(f"+{watch.most - watch.before:.0f} MiB; others' p90 {quantiles(watch.waits, n=10)[-1] * 1000:.0f} ms")
    assert gateway.children()["envoy"] == envoy
    assert len(watch.waits) > 20
    assert watch.most - watch.before < 8 * 31 * 2.2
