"""`gatehouse keys revoke` against a running gateway: new requests are refused, running streams end if they are to."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx2 as httpx
import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.fakes.script import Script
from testkit.redis_server import redis_server
from testkit.running_gateway import ROOT, RunningGateway, running_gateway
from testkit.waiting import until
from tests.integration.conftest import MODEL

FILE_KEY = "sk-revoking-file-key"
WITHIN_S = 2.0
LOAD_RPS, LOAD_CLIENTS = 1000, 16


@pytest.fixture(scope="module")
def backend() -> Iterator[FakeVllm]:
    with FakeVllm((MODEL,)) as fake:
        yield fake


@pytest.fixture(scope="module")
def gateway(backend: FakeVllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with redis_server() as redis:
        config = {
            "vllm": {"base_url": f"{backend.url}/v1", "default_model": MODEL},
            "rate_limits": {"free": {}},
            "api_keys": {FILE_KEY: {"user_id": "f", "tier": "free", "name": "in-file"}},
            "redis": {"url": redis.url},
            "key_store": {"type": "redis"},
        }
        with running_gateway(tmp_path_factory.mktemp("g"), config) as gateway:
            yield gateway


def keys(gateway: RunningGateway, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "gatehouse.cli", "keys", *arguments, "--json", "-c"]
    done = subprocess.run(
        [*command, str(gateway.directory / "gatehouse.yaml")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def made(gateway: RunningGateway, user: str, *arguments: str) -> dict[str, Any]:
    """A new key that every worker takes."""
    key = keys(gateway, "create", "--user", user, "--tier", "free", *arguments)
    taken(gateway, key["key"])
    return key


def taken(gateway: RunningGateway, key: str) -> None:
    """Wait until every worker takes `key`, which is two seconds at the most."""
    began = time.monotonic()
    answers: list[int] = []
    with gateway.client(headers={"authorization": f"Bearer {key}"}) as client:
        while answers[-20:] != [200] * 20:
            assert time.monotonic() - began < WITHIN_S + 1, answers[-20:]
            answers.append(client.get("/v1/models").status_code)


@dataclass
class Stream:
    """A chat that streams in a thread of its own."""

    gateway: RunningGateway
    key: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.events = 0
        self.done = False
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        words = {"role": "user", "content": "word " * 60}
        body = {"model": MODEL, "stream": True, "max_tokens": 60, "ignore_eos": True, "messages": [words]}
        headers = {"authorization": f"Bearer {self.key}", **self.headers}
        try:
            with (
                self.gateway.client(headers=headers) as client,
                client.stream("POST", "/v1/chat/completions", json=body) as response,
            ):
                for line in response.iter_lines():
                    self.events += line.startswith("data:")
                    self.done = self.done or line == "data: [DONE]"
        except httpx.HTTPError as error:
            self.error = error

    def started(self) -> "Stream":
        until(lambda: self.events, what="the first event")
        return self

    def over(self, within_s: float) -> bool:
        self._thread.join(within_s)
        return not self._thread.is_alive()


def test_f42_revoking_now_ends_the_streams_of_that_key_alone(gateway: RunningGateway, backend: FakeVllm) -> None:
    backend.script = Script(event_delay_s=0.1)
    doomed, other = made(gateway, "doomed"), made(gateway, "other")
    aborted = backend.aborted
    streams = [Stream(gateway, doomed["key"]).started() for _ in range(3)]
    bystander = Stream(gateway, other["key"]).started()

    keys(gateway, "revoke", doomed["id"], "--now")

    assert all(stream.over(WITHIN_S) for stream in streams)
    assert not any(stream.done for stream in streams), "a [DONE] that the model server never sent"
    assert all(stream.error for stream in streams), "the client must see that the stream was cut"
    assert bystander.over(30)
    assert (bystander.done, bystander.error) == (True, None)
    until(lambda: backend.aborted - aborted == 3)


def test_revoking_now_ends_a_stream_that_waited_for_its_100(gateway: RunningGateway, backend: FakeVllm) -> None:
    backend.script = Script(event_delay_s=0.1)
    doomed = made(gateway, "expecting")
    stream = Stream(gateway, doomed["key"], {"expect": "100-continue"}).started()
    keys(gateway, "revoke", doomed["id"], "--now")
    assert stream.over(WITHIN_S)
    assert stream.error
    assert not stream.done


def test_f42_revoking_lets_running_streams_finish(gateway: RunningGateway, backend: FakeVllm) -> None:
    backend.script = Script(event_delay_s=0.05)
    key = made(gateway, "leaving")
    stream = Stream(gateway, key["key"]).started()
    keys(gateway, "revoke", key["id"])
    time.sleep(WITHIN_S)
    with gateway.client(headers={"authorization": f"Bearer {key['key']}"}) as client:
        assert client.get("/v1/models").status_code == 401
    assert stream.over(30)
    assert (stream.done, stream.error) == (True, None)


def test_f42_revoking_now_reaches_keys_in_files(gateway: RunningGateway, backend: FakeVllm) -> None:
    backend.script = Script(event_delay_s=0.1)
    stream = Stream(gateway, FILE_KEY).started()
    keys(gateway, "revoke", "in-file", "--now")
    assert stream.over(WITHIN_S)
    assert not stream.done


def test_f42_under_load_no_request_passes_two_seconds_after_the_revocation(gateway: RunningGateway) -> None:
    """As many requests as the machine makes of 1,000 a second, over both workers."""
    key = made(gateway, "hammered")
    answers: list[tuple[float, int]] = []
    over = threading.Event()

    def call(_client: int) -> None:
        pause_s = LOAD_CLIENTS / LOAD_RPS
        with gateway.client(headers={"authorization": f"Bearer {key['key']}"}) as client:
            while not over.is_set():
                began = time.monotonic()
                answers.append((began, client.get("/v1/models").status_code))
                time.sleep(max(0.0, pause_s - (time.monotonic() - began)))

    with ThreadPoolExecutor(LOAD_CLIENTS) as pool:
        calls = pool.map(call, range(LOAD_CLIENTS))
        time.sleep(1)
        keys(gateway, "revoke", key["id"])
        returned = time.monotonic()
        time.sleep(WITHIN_S + 0.5)
        over.set()
        list(calls)
    assert {status for _, status in answers} == {200, 401}
    assert max(began for began, status in answers if status == 200) <= returned + WITHIN_S
    assert sum(status == 401 for _, status in answers) > 100


def test_a_successor_goes_on_where_its_predecessor_was(gateway: RunningGateway) -> None:
    """Counters of a key's own limits go by its family: rotating a key does not refill them."""
    first = made(gateway, "rotating", "--limits", '{"requests_per_hour": 5}')
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}

    def chat(key: str) -> int:
        with gateway.client(headers={"authorization": f"Bearer {key}"}) as client:
            return client.post("/v1/chat/completions", json=body).status_code

    assert [chat(first["key"]) for _ in range(3)] == [200] * 3
    second = keys(gateway, "rotate", first["id"], "--overlap", "1h")
    taken(gateway, second["key"])
    assert [chat(second["key"]), chat(first["key"]), chat(second["key"]), chat(first["key"])] == [200, 200, 429, 429]
