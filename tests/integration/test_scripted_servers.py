"""Model servers that answer in ways of their own: what the client sees, and what the record says, through a gateway."""

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from testkit.running_gateway import RunningGateway, running_gateway

CHAT = "/v1/chat/completions"
KEY = "sk-scripted-servers-1"
DONE = b"data: [DONE]\n\n"


class Scripted:
    """Answers every POST with a head and pieces, `gap_s` apart, and keeps the last body."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.head, self.pieces, self.gap_s = b"", list[bytes](), 0.0
        self.received = b""
        threading.Thread(target=self._serve, daemon=True).start()

    def says(self, pieces: Sequence[bytes], kind: str = "text/event-stream", *head: str, gap_s: float = 0.0) -> None:
        lines = ["HTTP/1.1 200 OK", f"content-type: {kind}", "transfer-encoding: chunked", "connection: close", *head]
        self.head, self.pieces, self.gap_s = "\r\n".join([*lines, "", ""]).encode(), list(pieces), gap_s

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with closing(connection), connection.makefile("rb") as lines:
            method = lines.readline().split(b" ")[0]
            headers = dict(line.lower().split(b": ", 1) for line in iter(lines.readline, b"\r\n") if b": " in line)
            body = lines.read(int(headers.get(b"content-length", b"0")))
            if method != b"POST":
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                return
            self.received = body
            try:
                connection.sendall(self.head)
                for piece in self.pieces:
                    connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
                    time.sleep(self.gap_s)
                connection.sendall(b"0\r\n\r\n")
            except OSError:
                return


@pytest.fixture(scope="module")
def server() -> Iterator[Scripted]:
    scripted = Scripted()
    yield scripted
    scripted.close()


@pytest.fixture(scope="module")
def gateway(server: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    backends: dict[str, Any] = {
        "m": {"backends": [{"url": f"http://127.0.0.1:{server.port}/v1"}]},
        "cloud": {"backends": [{"url": f"http://127.0.0.1:{server.port}/v1", "kind": "openai"}]},
    }
    config = {
        "models": backends,
        "default_model": "m",
        "api_keys": {KEY: {"user_id": "u", "tier": "t"}},
        "rate_limits": {"t": {"tokens_per_day": 10_000_000}},
    }
    directory: Path = tmp_path_factory.mktemp("scripted")
    with running_gateway(directory, config) as running:
        yield running


def ask(gateway: RunningGateway, path: str = CHAT, **body: Any) -> tuple[bytes, dict[str, Any]]:
    """What the client gets, and the record."""
    said = {"model": "m", **body}
    answer = httpx.post(gateway.url + path, json=said, headers={"authorization": f"Bearer {KEY}"}, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.content, gateway.record(answer.headers["x-request-id"])


def event(**data: Any) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def chunk(text: str, tokens: int) -> bytes:
    choices = [{"index": 0, "delta": {"content": text}}]
    return event(choices=choices, usage={"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens})


@pytest.mark.parametrize("scalar", [b"1", b"null", b"true", b'"x"', b"-0.5", b"1e400", b"[[", b"\xff"])
def test_no_event_of_a_server_ends_envoy(gateway: RunningGateway, server: Scripted, scalar: bytes) -> None:
    before = gateway.children()["envoy"]
    odd = b"data: %b\n\n" % scalar
    server.says([chunk("a", 1), odd, chunk("b", 2), DONE])
    content, record = ask(gateway, stream=True)
    assert odd in content
    assert (record["completion_tokens"], record["stream"]) == (2, True)
    assert gateway.children()["envoy"] == before


@pytest.mark.parametrize("usage", [{"total_tokens": 62}, {"prompt_tokens": 62, "total_tokens": 62}])
def test_a_rerank_that_tells_its_total_alone_is_counted(
    gateway: RunningGateway, server: Scripted, usage: dict[str, int]
) -> None:
    server.says([json.dumps({"results": [], "usage": usage}).encode()], "application/json")
    content, record = ask(gateway, "/v1/rerank", query="q", documents=["d"])
    assert json.loads(content)["usage"] == usage
    assert (record["prompt_tokens"], record["completion_tokens"]) == (62, None)


def test_a_large_answer_is_counted_and_passes_as_it_comes(gateway: RunningGateway, server: Scripted) -> None:
    floats = json.dumps([0.123456789] * 500_000).encode()
    whole = b'{"data":[{"embedding":%b}],"usage":{"prompt_tokens":7,"total_tokens":7}}' % floats
    server.says([whole[at : at + 50_000] for at in range(0, len(whole), 50_000)], "application/json; charset=utf-8")
    content, record = ask(gateway, "/v1/embeddings", input="x")
    assert content == whole
    assert record["prompt_tokens"] == 7


def test_embeddings_as_bytes_are_counted_by_their_header(gateway: RunningGateway, server: Scripted) -> None:
    told = json.dumps({"data": [], "usage": {"prompt_tokens": 2018, "total_tokens": 2018}})
    server.says([b"\x00\x01" * 100], "application/octet-stream", f"metadata: {told}")
    _, record = ask(gateway, "/v1/embeddings", input="x", encoding_format="bytes")
    assert record["prompt_tokens"] == 2018


def test_ttft_is_the_time_to_the_first_event_that_carries_something(gateway: RunningGateway, server: Scripted) -> None:
    role = event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])
    server.says([b": keep-alive\n\n", b": keep-alive\n\n", role, chunk("a", 1), DONE], gap_s=0.2)
    _, record = ask(gateway, stream=True)
    assert record["ttft_ms"] > 550


def test_comments_arrive_as_they_are_sent(gateway: RunningGateway, server: Scripted) -> None:
    server.says([b": keep-alive\n", b": keep-alive\n", chunk("a", 1), DONE], gap_s=0.3)
    headers = {"authorization": f"Bearer {KEY}"}
    began, came = time.monotonic(), []
    with httpx.stream("POST", gateway.url + CHAT, json={"model": "m", "stream": True}, headers=headers) as answer:
        for data in answer.iter_raw():
            came.append((time.monotonic() - began, data))
    assert [data for _, data in came[:2]] == [b": keep-alive\n"] * 2
    assert came[1][0] < 0.6


def test_an_error_within_a_200_is_a_failure(gateway: RunningGateway, server: Scripted) -> None:
    error = event(error={"message": "boom", "type": "InternalServerError", "code": 500})
    server.says([chunk("a", 1), chunk("b", 2), error, DONE])
    content, record = ask(gateway, stream=True, max_tokens=369)
    assert error in content
    assert (record["error_code"], record["prompt_tokens"], record["completion_tokens"]) == ("upstream_error", 9, 2)


def test_a_server_of_another_kind_is_asked_for_what_it_knows(gateway: RunningGateway, server: Scripted) -> None:
    server.says([DONE])
    own = {"include_usage": True, "x": 1}
    ask(gateway, model="cloud", stream=True, stream_options=own)
    assert json.loads(server.received)["stream_options"] == own
    ask(gateway, model="cloud", stream=True)
    assert json.loads(server.received)["stream_options"] == {"include_usage": True}
    ask(gateway, stream=True, stream_options=own)
    assert json.loads(server.received)["stream_options"] == {**own, "continuous_usage_stats": True}
    assert server.received.count(b"stream_options") == 1


@pytest.mark.parametrize("value", ["null", None])
def test_the_default_models_name_is_written_in(gateway: RunningGateway, server: Scripted, value: str | None) -> None:
    server.says([b'{"usage":{"prompt_tokens":1}}'], "application/json")
    body = b'{"messages":[]}' if value is None else b'{"model": null,"messages":[]}'
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    answer = httpx.post(gateway.url + CHAT, content=body, headers=headers)
    assert (answer.status_code, json.loads(server.received)["model"]) == (200, "m")
    assert gateway.record(answer.headers["x-request-id"])["model"] == "m"


@pytest.mark.parametrize("stream", [1, 1.0, "true", "TRUE", "on", "yes", "y", "t", "1"])
def test_a_stream_is_counted_however_it_is_asked_for(gateway: RunningGateway, server: Scripted, stream: Any) -> None:
    server.says([chunk("a", 1), chunk("b", 2), DONE])
    content, record = ask(gateway, stream=stream)
    assert (record["stream"], record["prompt_tokens"], record["completion_tokens"]) == (True, 9, 2)
    assert b"usage" not in content
    assert json.loads(server.received)["stream_options"]["include_usage"] is True


@pytest.mark.parametrize(
    ("most", "recorded"), [(3000.0, 3000), ("3000", 3000), (1_234_567_890_123, 10**12 - 1), (None, None), (-5, None)]
)
def test_a_bound_is_what_the_server_reads(
    gateway: RunningGateway, server: Scripted, most: Any, recorded: int | None
) -> None:
    server.says([b'{"usage":{"prompt_tokens":1,"completion_tokens":1}}'], "application/json")
    headers = {"authorization": f"Bearer {KEY}"}
    answer = httpx.post(gateway.url + CHAT, json={"model": "m", "max_tokens": most}, headers=headers)
    assert answer.status_code == (429 if recorded and recorded > 10_000_000 else 200)
    assert gateway.record(answer.headers["x-request-id"])["max_tokens"] == recorded


def left_after(gateway: RunningGateway, events: int, path: str = CHAT, **body: Any) -> dict[str, Any]:
    """The record of a stream whose client leaves after so many events."""
    headers, seen = {"authorization": f"Bearer {KEY}"}, b""
    with httpx.stream("POST", gateway.url + path, json={"model": "m", "stream": True, **body}, headers=headers) as got:
        for data in got.iter_raw():
            seen += data
            if seen.count(b"\n\n") >= events:
                break
    return gateway.record(got.headers["x-request-id"])


def test_choices_are_summed_when_the_client_leaves(gateway: RunningGateway, server: Scripted) -> None:
    pieces = [
        b"".join(
            event(
                choices=[{"index": index, "delta": {"content": "x"}}],
                usage={"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": 5 + tokens},
            )
            for index in range(4)
        )
        for tokens in range(1, 101)
    ]
    server.says([b"".join(pieces), *[b": wait\n\n"] * 50], gap_s=0.1)
    record = left_after(gateway, 400, n=4)
    assert (record["completion_tokens"], record["prompt_tokens"], record["aborted"]) == (400, 5, True)


@pytest.mark.parametrize("ahead", [0, 1])
def test_messages_are_counted_when_the_client_leaves(gateway: RunningGateway, server: Scripted, ahead: int) -> None:
    start = event(type="message_start", message={"usage": {"input_tokens": 12, "output_tokens": ahead}})
    delta = event(type="content_block_delta", index=0, delta={"type": "text_delta", "text": "Hi"})
    server.says([start + delta * 50, *[b": wait\n\n"] * 50], gap_s=0.1)
    record = left_after(gateway, 51, "/v1/messages", max_tokens=200)
    assert (record["prompt_tokens"], record["completion_tokens"], record["aborted"]) == (12, 50, True)


def test_responses_are_counted_when_the_client_leaves(gateway: RunningGateway, server: Scripted) -> None:
    created = event(type="response.created", response={"usage": None})
    server.says([created + event(type="response.output_text.delta", delta="Hi") * 50, *[b": wait\n\n"] * 50], gap_s=0.1)
    record = left_after(gateway, 51, "/v1/responses", input="x")
    assert (record["completion_tokens"], record["aborted"]) == (50, True)


ANSWERS: list[tuple[str, dict[str, Any], int, int | None]] = [
    (CHAT, {"usage": {"total_tokens": 62}}, 62, None),
    (CHAT, {"usage": {"prompt_tokens": 2, "total_tokens": 62}}, 2, 60),
    ("/v1/score", {"usage": {"prompt_tokens": 7, "total_tokens": 7, "completion_tokens": 0}}, 7, 0),
    ("/v1/responses", {"status": "incomplete", "usage": {"input_tokens": 3, "output_tokens": 9}}, 3, 9),
    ("/v1/messages", {"usage": {"input_tokens": 3, "cache_read_input_tokens": 4, "output_tokens": 9}}, 7, 9),
]


@pytest.mark.parametrize(("path", "body", "prompt", "completion"), ANSWERS)
def test_usage_of_any_shape_is_counted(
    gateway: RunningGateway, server: Scripted, path: str, body: dict[str, Any], prompt: int, completion: int | None
) -> None:
    server.says([json.dumps(body).encode()], "application/json")
    content, record = ask(gateway, path)
    assert json.loads(content) == body
    assert (record["prompt_tokens"], record["completion_tokens"]) == (prompt, completion)


def test_usage_on_the_finishing_chunk_is_shown_once_to_who_asked(gateway: RunningGateway, server: Scripted) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
    text = event(choices=[{"index": 0, "delta": {"content": "a"}}])
    finish = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], usage=usage)
    for asked in (True, False):
        server.says([text, finish, DONE])
        content, record = ask(gateway, stream=True, stream_options={"include_usage": asked})
        assert content.count(b'"usage"') == asked
        assert content.count(b'"finish_reason"') == 1
        assert (record["prompt_tokens"], record["completion_tokens"]) == (9, 2)


def test_a_last_event_with_more_than_usage_is_kept_without_it(gateway: RunningGateway, server: Scripted) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
    server.says([chunk("a", 1), event(choices=[], usage=usage, citations=["https://example.com"]), DONE])
    content, record = ask(gateway, stream=True)
    assert b"citations" in content
    assert b"usage" not in content
    assert record["completion_tokens"] == 1


def test_usage_over_three_lines_of_data_is_hidden(gateway: RunningGateway, server: Scripted) -> None:
    usage = b'data: "usage": {"prompt_tokens": 9, "completion_tokens": 4,\ndata: "total_tokens": 13}}\n\n'
    lines = b'data: {"choices": [],\n' + usage
    server.says([chunk("a", 1), lines, DONE])
    content, record = ask(gateway, stream=True)
    assert b"usage" not in content
    assert record["completion_tokens"] == 4


def test_events_that_end_in_carriage_returns_arrive_as_they_come(gateway: RunningGateway, server: Scripted) -> None:
    events = [chunk(text, at).replace(b"\n", b"\r") for at, text in enumerate("abc", 1)]
    server.says([*events, DONE.replace(b"\n", b"\r")], gap_s=0.3)
    began, came = time.monotonic(), []
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.stream("POST", gateway.url + CHAT, json={"model": "m", "stream": True}, headers=headers) as answer:
        came = [(time.monotonic() - began, data) for data in answer.iter_raw()]
    assert came[0][0] < 0.6
    assert b'"a"' in came[0][1]
    assert b"usage" not in b"".join(data for _, data in came)
    assert gateway.record(answer.headers["x-request-id"])["completion_tokens"] == 3


@pytest.mark.parametrize(
    "error",
    [
        {"type": "error", "error": {"type": "overloaded_error", "message": "later"}},
        {"object": "error", "message": "no room", "type": "BadRequestError", "code": 400},
    ],
)
def test_an_error_of_any_dialect_is_a_failure(gateway: RunningGateway, server: Scripted, error: dict[str, Any]) -> None:
    start = event(type="message_start", message={"usage": {"input_tokens": 12, "output_tokens": 0}})
    delta = event(type="content_block_delta", index=0, delta={"type": "text_delta", "text": "Hi"})
    server.says([start, delta, delta, event(**error)])
    _, record = ask(gateway, "/v1/messages", stream=True, max_tokens=369)
    assert (record["error_code"], record["prompt_tokens"], record["completion_tokens"]) == ("upstream_error", 12, 2)


REFUSED: list[tuple[dict[str, Any], str, str | None]] = [
    ({"stream": "maybe"}, "invalid_value", "stream"),
    ({"max_tokens": 3000.5}, "invalid_value", "max_tokens"),
    ({"model": ["m"]}, "missing_model", "model"),
    ({"model": ""}, "missing_model", "model"),
]


@pytest.mark.parametrize(("body", "code", "param"), REFUSED)
def test_what_is_refused_is_told_by_name(
    gateway: RunningGateway, server: Scripted, body: dict[str, Any], code: str, param: str | None
) -> None:
    server.received = b""
    headers = {"authorization": f"Bearer {KEY}"}
    answer = httpx.post(gateway.url + CHAT, json={"model": "m", **body}, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"], error["type"]) == (
        400,
        code,
        param,
        "invalid_request_error",
    )
    assert error["message"] == answer.json()["detail"]
    assert gateway.record(answer.headers["x-request-id"])["error_code"] == code
    assert server.received == b""


def test_a_background_response_is_refused(gateway: RunningGateway, server: Scripted) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    body = {"model": "m", "input": "x", "background": True}
    answer = httpx.post(f"{gateway.url}/v1/responses", json=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "not_allowed_here")


def test_the_byte_is_named_at_which_json_ends(gateway: RunningGateway) -> None:
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    answer = httpx.post(gateway.url + CHAT, content=b'{"model":"m",}', headers=headers)
    assert answer.json()["error"]["message"].endswith("at byte 13.")


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "br", "deflate", "GZIP", "identity, gzip", "x-gzip"])
def test_an_encoded_body_is_415(gateway: RunningGateway, encoding: str) -> None:
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json", "content-encoding": encoding}
    answer = httpx.post(gateway.url + CHAT, content=b"x" * 100, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "encoded_body")
    assert "Content-Encoding" in answer.json()["error"]["message"]


def test_a_body_of_many_values_is_413(gateway: RunningGateway) -> None:
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    answer = httpx.post(
        gateway.url + CHAT, content=b'{"model":"m","x":[%b]}' % (b"0," * 600_000 + b"0"), headers=headers
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_many_values")
    assert "500000" in answer.json()["error"]["message"]
