"""Clients that violate HTTP: raw bytes to a gateway, and its answers."""

import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import httpx2 as httpx


def connected(url: str, timeout_s: float = 10) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout_s)


def exchanged(url: str, sent: bytes, wanted: int = 1) -> list[httpx.Response]:
    """The answers to `sent`: as many as `wanted`, or what there is when the server closes."""
    received = b""
    with connected(url) as connection, suppress(OSError):
        connection.sendall(sent)
        while len(answers(received)) < wanted and (data := connection.recv(65536)):
            received += data
    return answers(received)


def answers(received: bytes) -> list[httpx.Response]:
    """The answers that have come whole, of those an HTTP/1.1 server sent; but that to HEAD, all have a length."""
    found = []
    while b"\r\n\r\n" in received:
        head, _, rest = received.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = httpx.Headers([(name, value) for name, _, value in (line.partition(": ") for line in lines)])
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            break
        found.append(httpx.Response(int(status.split()[1]), headers=headers, content=rest[:length]))
        received = rest[length:]
    return found


@dataclass
class Outcome:
    """What became of one HTTP/2 stream: an answer, a reset, or the end of the connection."""

    status: int | None = None
    reset: bool = False
    closed: bool = False
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        return self.reset or self.closed


def http2(url: str, headers: list[tuple[str, str]], body: bytes = b"", patience_s: float = 5) -> Outcome:
    """One stream with exactly these headers, pseudo-headers included, and nothing checked on the way out."""
    config = h2.config.H2Configuration(
        validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding="utf-8"
    )
    client, outcome = h2.connection.H2Connection(config), Outcome()
    client.initiate_connection()
    client.send_headers(1, headers, end_stream=not body)
    if body:
        client.send_data(1, body, end_stream=True)
    deadline = time.monotonic() + patience_s
    with connected(url) as connection:
        connection.settimeout(0.2)
        with suppress(OSError):
            connection.sendall(client.data_to_send())
        while time.monotonic() < deadline:
            try:
                data = connection.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                data = b""
            if not data:
                outcome.closed = True
                return outcome
            try:
                if _told(outcome, client.receive_data(data)):
                    return outcome
            except h2.exceptions.ProtocolError:  # frames on a connection that this client considers closed
                outcome.closed = True
                return outcome
            with suppress(OSError):
                connection.sendall(client.data_to_send())
    return outcome


def _told(outcome: Outcome, events: list[h2.events.Event]) -> bool:
    """Record the events in `outcome`; whether they end the stream."""
    for event in events:
        if isinstance(event, h2.events.ResponseReceived):
            outcome.headers = {str(name): str(value) for name, value in event.headers}
            outcome.status = int(outcome.headers[":status"])
        elif isinstance(event, h2.events.DataReceived):
            outcome.body += event.data
        elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
            outcome.reset = True
        if outcome.reset or isinstance(event, h2.events.StreamEnded):
            return True
    return False
