"""Clients that take their time, or too much: others hardly notice, memory stays bounded, and it is over when they are.

The load is bounded by counts, not by time. Run with `-s` to see the figures.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import quantiles

import httpx2 as httpx
import pytest
from hpack import Encoder
from hyperframe.frame import ContinuationFrame, Frame, HeadersFrame, RstStreamFrame, SettingsFrame

from testkit.fakes.fake_vllm import FakeVllm
from testkit.raw_http import answers, connected
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until
from tests.integration.conftest import MODEL, PREMIUM

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
HEADERS = {"authorization": f"Bearer {PREMIUM}"}
EMBEDDINGS = "/v1/embeddings"
BODY = {"model": MODEL, "input": "hi"}
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize()
RECOVERY_S = 10
NOISE_S = 0.05
"""What a busy machine adds by itself."""


@pytest.fixture(scope="module")
def backend() -> Iterator[FakeVllm]:
    with FakeVllm((MODEL,)) as fake:
        yield fake


def config(backend: FakeVllm, **server: int) -> dict[str, object]:
    return {
        "vllm": {"base_url": f"{backend.url}/v1", "default_model": MODEL},
        "api_keys": {PREMIUM: {"user_id": "a", "tier": "unlimited"}},
        "rate_limits": {"unlimited": {}},
        "server": server,
    }


@pytest.fixture(scope="module")
def gateway(backend: FakeVllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(tmp_path_factory.mktemp("greedy"), config(backend)) as running:
        yield running


def rss_mib(gateway: RunningGateway) -> int:
    """What Envoy holds in memory."""
    pages = int(Path(f"/proc/{gateway.children()['envoy']}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // MIB


def p99(gateway: RunningGateway, requests: int = 200) -> float:
    """Seconds that all but one in a hundred of a good client's requests stay under; each of them is answered."""
    took = []
    with gateway.client(headers=HEADERS) as client:
        for _ in range(requests):
            started = time.monotonic()
            assert client.post(EMBEDDINGS, json=BODY).status_code == 200
            took.append(time.monotonic() - started)
    return quantiles(took, n=100)[98]


@contextlib.contextmanager
def others_hardly_notice(gateway: RunningGateway, grows_mib: int) -> Iterator[None]:
    """While the block runs, and after it: who behaves is answered as before, and Envoy's memory is bounded."""
    usual, before = p99(gateway), rss_mib(gateway)
    during: list[float] = []
    good = threading.Thread(target=lambda: during.append(p99(gateway)))
    good.start()
    yield
    good.join()
    held = rss_mib(gateway) - before
    print(f"\np99 {usual * 1e3:.1f} ms before, {during[0] * 1e3:.1f} ms meanwhile; Envoy grew by {held} MiB")
    assert during[0] < 2 * usual + NOISE_S
    assert held < grows_mib


def recovered(gateway: RunningGateway, usual: float) -> None:
    deadline = time.monotonic() + RECOVERY_S
    while p99(gateway, 50) > 2 * usual + NOISE_S:
        assert time.monotonic() < deadline, f"not as before within {RECOVERY_S} s"


def until_closed(connection: socket.socket) -> bytes:
    """What still comes, until the server closes."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65536):
            received += data
    return received


def test_f36_headers_that_never_end_are_408_after_ten_seconds(gateway: RunningGateway) -> None:
    with contextlib.ExitStack() as stack, others_hardly_notice(gateway, grows_mib=40):
        slow = [stack.enter_context(connected(gateway.url, 30)) for _ in range(500)]
        started = time.monotonic()
        for connection in slow:
            connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\n")
        for second in range(8):
            for connection in slow:
                connection.sendall(b"x-%d: y\r\n" % second)
            time.sleep(1)
        for connection in slow:
            [answer] = answers(until_closed(connection))
            assert (answer.status_code, answer.json()["error"]["code"]) == (408, "request_timeout")
        assert time.monotonic() - started < 20


def test_f36_a_body_that_never_ends_is_408_after_two_minutes(gateway: RunningGateway) -> None:
    head = f"POST {EMBEDDINGS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {PREMIUM}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    with connected(gateway.url, 30) as connection:
        connection.sendall(head.encode())
        started = time.monotonic()
        while time.monotonic() - started < 118:
            connection.sendall(b"{")
            time.sleep(1)
        [answer] = answers(until_closed(connection))
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "request_timeout")


def test_f36_five_thousand_idle_connections_cost_little(gateway: RunningGateway) -> None:
    usual = p99(gateway)
    with contextlib.ExitStack() as stack, others_hardly_notice(gateway, grows_mib=250):
        for _ in range(5_000):
            stack.enter_context(connected(gateway.url, 30))
        time.sleep(2)
    recovered(gateway, usual)


def request_headers(encoder: Encoder) -> bytes:
    fields = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", EMBEDDINGS), *HEADERS.items()]
    block: bytes = encoder.encode(fields)
    return block


def sent_until_refused(gateway: RunningGateway, frames: Iterator[Frame]) -> int:
    """How many frames a connection takes before Envoy closes it."""
    sent = 0
    with connected(gateway.url, 10) as connection, contextlib.suppress(OSError):
        connection.sendall(PREFACE)
        for frame in frames:
            connection.sendall(frame.serialize())
            sent += 1
    return sent


def rapid_resets(most: int) -> Iterator[Frame]:
    """Streams that are given up as soon as they are opened (CVE-2023-44487)."""
    encoder = Encoder()
    for number in range(1, 2 * most, 2):
        headers = HeadersFrame(number, data=request_headers(encoder))
        headers.flags.add("END_HEADERS")
        yield headers
        yield RstStreamFrame(number, error_code=8)


def endless_headers(most: int) -> Iterator[Frame]:
    """One header block that never ends (CVE-2024-27983 and its kin)."""
    encoder = Encoder()
    yield HeadersFrame(1, data=request_headers(encoder))
    for number in range(most):
        yield ContinuationFrame(1, data=encoder.encode([(f"x-{number}", "y" * 4000)], huffman=False))


def test_f36_streams_that_are_reset_at_once_end_their_connection(gateway: RunningGateway, backend: FakeVllm) -> None:
    usual, before = p99(gateway), len(backend.requests)
    with others_hardly_notice(gateway, grows_mib=40):
        taken = [sent_until_refused(gateway, rapid_resets(20_000)) for _ in range(20)]
    print(f"frames taken of 40,000: {taken}")
    assert max(taken) < 40_000
    assert all(request.body for request in backend.requests[before:]), "none of them reached the model server"
    recovered(gateway, usual)


def test_f36_headers_of_http_2_that_never_end_end_their_connection(gateway: RunningGateway) -> None:
    usual = p99(gateway)
    with others_hardly_notice(gateway, grows_mib=40):
        taken = [sent_until_refused(gateway, endless_headers(50_000)) for _ in range(5)]
    print(f"frames of 4 KB taken of 50,000: {taken}")
    assert max(taken) < 50_000
    recovered(gateway, usual)


def test_f36_a_reader_that_hardly_reads_costs_its_buffer_and_no_more(
    gateway: RunningGateway, backend: FakeVllm
) -> None:
    """Twenty streams of some 20 MB each, of which a byte a second is read: the model server has to wait."""
    body = (
        b'{"model":"%b","stream":true,"max_tokens":100000,"messages":[{"role":"user","content":"hi"}]}' % MODEL.encode()
    )
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {PREMIUM}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    before = rss_mib(gateway)
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            reader = stack.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(("127.0.0.1", int(gateway.url.rpartition(":")[2])))
            reader.sendall(head.encode() + body)
            reader.recv(1)
        time.sleep(10)
        held = rss_mib(gateway) - before
        print(f"\n20 readers cost Envoy {held} MiB")
        assert held < 20 * 4 + 20
        assert httpx.post(gateway.url + EMBEDDINGS, json=BODY, headers=HEADERS).status_code == 200
    until(lambda: backend.running == 0, within_s=10)


def test_f36_connections_beyond_the_limit_are_closed_and_the_others_go_on(backend: FakeVllm, tmp_path: Path) -> None:
    with running_gateway(tmp_path, config(backend, max_connections=50)) as running, running.client() as client:
        assert client.post(EMBEDDINGS, json=BODY, headers=HEADERS).status_code == 200
        with contextlib.ExitStack() as stack:
            many = [stack.enter_context(connected(running.url)) for _ in range(80)]
            time.sleep(0.5)
            closed = [connection for connection in many if is_closed(connection)]
            assert len(many) - len(closed) <= 50
            assert client.post(EMBEDDINGS, json=BODY, headers=HEADERS).status_code == 200
        until(lambda: answered(running), RECOVERY_S)


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_f36_short_of_memory_new_requests_are_503_until_it_is_there_again(backend: FakeVllm, tmp_path: Path) -> None:
    head = f"POST {EMBEDDINGS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {PREMIUM}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {31 * MIB}\r\n\r\n"
    with running_gateway(tmp_path, config(backend, max_memory_mb=96, max_body_mb=32)) as running:
        with contextlib.ExitStack() as stack, running.client(headers=HEADERS) as client:
            assert client.post(EMBEDDINGS, json=BODY).status_code == 200
            for _ in range(3):
                big = stack.enter_context(connected(running.url, 10))
                big.sendall(head.encode() + b" " * (30 * MIB))
            time.sleep(1)
            print(f"\nEnvoy holds {rss_mib(running)} MiB, of 96 that it may")
            refused = client.post(EMBEDDINGS, json=BODY)
        assert refused.status_code == 503, refused.text
        assert refused.json()["error"]["code"] == "server_is_overloaded"
        assert int(refused.headers["retry-after"]) >= 1
        until(lambda: answered(running), RECOVERY_S)


def answered(gateway: RunningGateway) -> bool:
    return httpx.post(gateway.url + EMBEDDINGS, json=BODY, headers=HEADERS, timeout=10).status_code == 200
