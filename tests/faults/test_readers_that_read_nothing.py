"""Two hundred clients ask for long streams and read nothing of them: each costs its buffer, and nobody else notices."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import quantiles

import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until
from tests.integration.conftest import MODEL, PREMIUM

pytestmark = pytest.mark.alone

MIB = 1024 * 1024
READERS = 200
NOISE_S = 0.05
"""What a busy machine adds by itself."""
STREAM_BYTES = 8 * MIB
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * 400)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


class Torrent:
    """A model server that writes streams of 8 MiB, as fast as they are taken."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=READERS)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.streams = 0
        self.written = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            asked = connection.recv(65536)
            if asked.startswith(b"GET"):
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                return
            self.streams += 1
            try:
                connection.sendall(HEAD)
                piece = EVENT * (65536 // len(EVENT))
                for _ in range(STREAM_BYTES // len(piece)):
                    connection.sendall(piece)
                    self.written += 1
            except OSError:
                return

    def waits(self) -> bool:
        before = self.written
        time.sleep(1.5)
        return self.written == before

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def torrent() -> Iterator[Torrent]:
    server = Torrent()
    yield server
    server.close()


def envoy_rss(gateway: RunningGateway) -> int:
    pages = int(Path(f"/proc/{gateway.children()['envoy']}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def p99(gateway: RunningGateway) -> float:
    """Of a client that asks another model server; each of its requests is answered."""
    took = []
    with gateway.client(headers={"authorization": f"Bearer {PREMIUM}"}) as client:
        for _ in range(200):
            started = time.monotonic()
            assert client.post("/v1/embeddings", json={"model": MODEL, "input": "hi"}).status_code == 200
            took.append(time.monotonic() - started)
    return quantiles(took, n=100)[98]


def reading_nothing(gateway: RunningGateway) -> socket.socket:
    body = b'{"model":"torrent","stream":true,"messages":[{"role":"user","content":"hi"}]}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {PREMIUM}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect(("127.0.0.1", int(gateway.url.rpartition(":")[2])))
    reader.sendall(head.encode() + body)
    return reader


def test_they_cost_a_mebibyte_each_and_nobody_else(torrent: Torrent, tmp_path: Path) -> None:
    with FakeVllm((MODEL,)) as backend:
        config = {
            "models": {
                MODEL: {"backends": [{"url": f"{backend.url}/v1"}]},
                "torrent": {"backends": [{"url": f"{torrent.url}/v1"}]},
            },
            "api_keys": {PREMIUM: {"user_id": "a", "tier": "unlimited"}},
            "rate_limits": {"unlimited": {}},
        }
        with running_gateway(tmp_path, config) as gateway, ExitStack() as stack:
            usual, before = p99(gateway), envoy_rss(gateway)
            for _ in range(READERS):
                stack.enter_context(reading_nothing(gateway))
            until(lambda: torrent.streams == READERS and torrent.waits(), 30, "every stream to stand still")
            meanwhile = p99(gateway)
            each = (envoy_rss(gateway) - before) / READERS
            print(
                f"\np99 {usual * 1e3:.1f} ms before, {meanwhile * 1e3:.1f} ms meanwhile; {each / MIB:.2f} MiB a reader"
            )
            assert each <= MIB
            assert meanwhile < 2 * usual + NOISE_S
