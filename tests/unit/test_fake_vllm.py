"""The fake vLLM does what its script says: otherwise the tests that use it would prove nothing."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.fakes.script import Script
from testkit.waiting import until

CHAT = "/v1/chat/completions"


@pytest.fixture
def backend() -> Iterator[FakeVllm]:
    with FakeVllm() as running:
        yield running


def ask(backend: FakeVllm, *, timeout: float = 5.0, **body: Any) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", backend.port, timeout=timeout)
    sent = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | body
    connection.request("POST", CHAT, json.dumps(sent), {"Content-Type": "application/json", "X-Mark": "1"})
    return connection.getresponse()


def streamed(backend: FakeVllm) -> bytes:
    return ask(backend, stream=True).read()


def get(backend: FakeVllm, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", backend.port, timeout=5)
    connection.request("GET", path)
    return connection.getresponse().status


def test_request_is_recorded_as_it_arrived(backend: FakeVllm) -> None:
    assert ask(backend).status == 200
    (recorded,) = backend.requests
    assert (recorded.method, recorded.path, recorded.headers["x-mark"]) == ("POST", CHAT, "1")
    assert recorded.json()["model"] == "m"
    assert json.loads(recorded.body) == recorded.json()


def test_stream_that_dies_ends_after_the_events_it_was_given(backend: FakeVllm) -> None:
    backend.script = Script(die_after=2)
    response = ask(backend, stream=True)
    with pytest.raises(http.client.IncompleteRead) as cut:
        response.read()
    assert cut.value.partial.count(b"data: ") == 2
    until(lambda: backend.running == 0)
    assert backend.aborted == 0


def test_death_before_headers_leaves_no_answer(backend: FakeVllm) -> None:
    backend.script = Script(die_before_headers=True)
    with pytest.raises(http.client.RemoteDisconnected):
        ask(backend)


def test_stall_mid_stream_holds_until_the_client_leaves(backend: FakeVllm) -> None:
    backend.script = Script(stall_after=2)
    response = ask(backend, stream=True, timeout=0.2)
    assert response.readline().startswith(b"data: ")
    with pytest.raises(TimeoutError):
        response.read()
    assert (backend.running, backend.aborted) == (1, 0)
    response.close()
    until(lambda: backend.running == 0)
    assert backend.aborted == 1


def test_stall_before_headers_sends_nothing(backend: FakeVllm) -> None:
    backend.script = Script(headers_after_s=float("inf"))
    with pytest.raises(TimeoutError):
        ask(backend, timeout=0.1)
    until(lambda: backend.aborted == 1)


def test_given_answer_replaces_the_models(backend: FakeVllm) -> None:
    backend.script = Script(status=503, headers={"Retry-After": "7"}, body=b"busy")
    response = ask(backend)
    assert (response.status, response.headers["retry-after"], response.read()) == (503, "7", b"busy")


def test_odd_framing_changes_no_event(backend: FakeVllm) -> None:
    plain = streamed(backend)
    backend.script = Script(pieces=3, crlf=True)
    assert [len(line) for line in streamed(backend).split(b"\r\n")] == [len(line) for line in plain.split(b"\n")]


def test_big_event_is_valid_json_of_the_size_asked_for(backend: FakeVllm) -> None:
    backend.script = Script(big_event=3 * 2**20)
    _, big, *_ = streamed(backend).split(b"\n\n")
    chunk = json.loads(big.removeprefix(b"data: "))
    assert len(chunk["padding"]) == 3 * 2**20
    assert chunk["choices"][0]["delta"]["content"] == "You"


def test_slow_events_are_apart(backend: FakeVllm) -> None:
    backend.script = Script(event_delay_s=0.02)
    started = time.monotonic()
    events = streamed(backend).count(b"data: ")
    assert time.monotonic() - started >= events * 0.02


def test_down_refuses_connections_and_up_returns_on_the_same_port(backend: FakeVllm) -> None:
    port = backend.port
    backend.down()
    with pytest.raises(ConnectionRefusedError):
        get(backend, "/health")
    backend.up()
    assert (backend.port, get(backend, "/health")) == (port, 200)


def test_down_cuts_connections_that_are_open(backend: FakeVllm) -> None:
    backend.script = Script(stall_after=1)
    with socket.create_connection(("127.0.0.1", backend.port), timeout=5) as idle:
        response = ask(backend, stream=True)
        response.readline()
        backend.down()
        with pytest.raises(http.client.IncompleteRead):
            response.read()
        assert idle.recv(1) == b""
    assert (backend.running, backend.aborted) == (0, 0)


def test_unhealthy_answers_503_and_health_checks_are_not_recorded(backend: FakeVllm) -> None:
    assert get(backend, "/health") == 200
    backend.healthy = False
    assert get(backend, "/health") == 503
    assert backend.requests == []
