"""The demo model server: vLLM's shapes, counts that add up, and the same answer every time."""

import asyncio
import json
import signal
import socket
import struct
import sys
import time
from base64 import b64decode
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientPayloadError, ClientSession, UnixConnector
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI

from demo_model_server import tokens
from demo_model_server.app import Settings, create_app
from demo_model_server.echo import MAX_ANSWER, echo
from demo_model_server.pooling import vector

HELLO = {"messages": [{"role": "user", "content": "hello there"}]}
Client = TestClient[Any, Any]


@pytest_asyncio.fixture
async def client() -> AsyncIterator[Client]:
    async with TestClient(TestServer(create_app(Settings(models=("tiny", "other"))))) as client:
        yield client


@pytest_asyncio.fixture
async def strict() -> AsyncIterator[Client]:
    async with TestClient(TestServer(create_app(Settings(models=("tiny",), strict=True)))) as client:
        yield client


async def post(client: Client, path: str, **body: Any) -> tuple[int, Any]:
    async with client.post(path, json=body) as response:
        return response.status, await response.json()


async def stream(client: Client, path: str, **body: Any) -> list[Any]:
    """The data of a stream's events, `[DONE]` as it is."""
    async with client.post(path, json=body | {"stream": True}) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        events = (await response.text()).split("\n\n")
    data = [event.rpartition("data: ")[2] for event in events if event]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


def content(chunks: list[Any]) -> str:
    return "".join(
        chunk["choices"][0]["delta"]["content"] for chunk in chunks if chunk != "[DONE]" and chunk["choices"]
    )


# Tokens and answers


@given(st.text())
def test_tokens_of_a_text_joined_are_the_text(text: str) -> None:
    assert "".join(tokens.split(text)) == text


@given(st.text())
def test_ids_decode_to_the_text_they_came_from(text: str) -> None:
    ids = [tokens.token_id(token) for token in tokens.split(text)]
    assert tokens.join(ids) == text
    assert all(number < 2**53 for number in ids)


@given(st.integers().filter(lambda number: number < 256 or number.bit_length() % 8 != 1))
def test_id_that_no_token_has_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="is not the id of a token"):
        tokens.token_text(number)


@given(st.text(), st.integers(1, 50))
def test_endless_answer_has_exactly_the_length_asked_for(said: str, limit: int) -> None:
    answer = echo(said, said, limit, endless=True)
    assert (answer.completion_tokens, answer.finish) == (limit, "length")


@given(st.text())
def test_cached_tokens_are_fewer_than_the_prompt(prompt: str) -> None:
    answer = echo(prompt, prompt, 1)
    assert answer.prompt_tokens == tokens.count(prompt)
    assert answer.cached_tokens % 16 == 0
    assert 0 <= answer.cached_tokens < max(1, answer.prompt_tokens)


@given(st.text(), st.integers(1, 100))
def test_vectors_have_length_one_and_the_dimensions_asked_for(text: str, dimensions: int) -> None:
    values = vector(text, dimensions)
    assert len(values) == dimensions
    assert sum(value * value for value in values) == pytest.approx(1)
    assert values == vector(text, dimensions)


# Chat and completions


@pytest.mark.asyncio
async def test_chat_says_the_last_message_back_and_counts_it(client: Client) -> None:
    status, body = await post(client, "/v1/chat/completions", model="tiny", **HELLO)
    assert status == 200
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "You said: hello there\n", "refusal": None}
    assert body["choices"][0]["finish_reason"] == "stop"
    used = body["usage"]
    assert used["completion_tokens"] == tokens.count("You said: hello there\n")
    assert used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"]
    assert used["prompt_tokens_details"] == {"cached_tokens": 0}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("field", "made"), [({"max_tokens": 3}, 3), ({"max_tokens": 9, "max_completion_tokens": 2}, 2)]
)
async def test_chat_stops_at_the_limit(client: Client, field: dict[str, int], made: int) -> None:
    _, body = await post(client, "/v1/chat/completions", **HELLO, **field)
    assert body["usage"]["completion_tokens"] == made
    assert body["choices"][0]["finish_reason"] == "length"


@pytest.mark.asyncio
async def test_streamed_chat_says_what_the_whole_one_says(client: Client) -> None:
    _, body = await post(client, "/v1/chat/completions", **HELLO)
    chunks = await stream(client, "/v1/chat/completions", **HELLO)
    assert content(chunks) == body["choices"][0]["message"]["content"]
    assert chunks[-1] == "[DONE]"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]


@pytest.mark.asyncio
@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"continuous_usage_stats": True}])
@pytest.mark.parametrize("call", [("/v1/chat/completions", HELLO), ("/v1/completions", {"prompt": "hi"})])
async def test_stream_shows_no_usage_unless_asked(client: Client, options: Any, call: tuple[str, Any]) -> None:
    chunks = await stream(client, call[0], **call[1], stream_options=options)
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks[:-1])


@pytest.mark.asyncio
@pytest.mark.parametrize("call", [("/v1/chat/completions", HELLO), ("/v1/completions", {"prompt": "hi"})])
async def test_include_usage_adds_one_chunk_without_choices(client: Client, call: tuple[str, Any]) -> None:
    chunks = await stream(client, call[0], **call[1], max_tokens=3, stream_options={"include_usage": True})
    *plain, last, done = chunks
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3
    assert all("usage" not in chunk for chunk in plain)


@pytest.mark.asyncio
async def test_continuous_usage_is_cumulative(client: Client) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = await stream(client, "/v1/chat/completions", **HELLO, max_tokens=3, stream_options=options)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks[:-1]] == [0, 1, 2, 3, 3]
    assert ["prompt_tokens_details" in chunk["usage"] for chunk in chunks[:-1]] == [False] * 4 + [True]


@pytest.mark.asyncio
async def test_last_of_two_equal_fields_wins(client: Client) -> None:
    raw = b'{"prompt":"hi","max_tokens":5,"max_tokens":2}'
    async with client.post("/v1/completions", data=raw, headers={"content-type": "application/json"}) as response:
        assert (await response.json())["usage"]["completion_tokens"] == 2


@pytest.mark.asyncio
async def test_completion_takes_token_ids(client: Client) -> None:
    ids = [tokens.token_id(token) for token in tokens.split("hello there")]
    _, by_ids = await post(client, "/v1/completions", prompt=ids)
    _, by_text = await post(client, "/v1/completions", prompt="hello there")
    assert by_ids["choices"] == by_text["choices"]
    assert by_text["choices"][0]["text"] == "You said: hello there\n"


# Other APIs


@pytest.mark.asyncio
async def test_responses_stream_ends_with_the_whole_response(client: Client) -> None:
    _, whole = await post(client, "/v1/responses", input="hello there", max_output_tokens=4)
    events = await stream(client, "/v1/responses", input="hello there", max_output_tokens=4)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created"
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["usage"] == whole["usage"]
    assert whole["usage"]["output_tokens"] == 4
    assert whole["status"] == "incomplete"
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == whole["output"][0]["content"][0]["text"] == "You said: hello"


@pytest.mark.asyncio
async def test_messages_stream_carries_usage_at_both_ends(client: Client) -> None:
    long = {"messages": [{"role": "user", "content": [{"type": "text", "text": "word " * 40}]}], "max_tokens": 5}
    _, whole = await post(client, "/v1/messages", **long)
    events = await stream(client, "/v1/messages", **long)
    assert [event["type"] for event in events][:2] == ["message_start", "content_block_start"]
    assert events[0]["message"]["usage"] == {"input_tokens": whole["usage"]["input_tokens"] + 32, "output_tokens": 0}
    assert events[-2]["usage"] == whole["usage"]
    assert whole["usage"]["cache_read_input_tokens"] == 32
    assert whole["stop_reason"] == "max_tokens"


@pytest.mark.asyncio
@pytest.mark.parametrize("given", ["hello", ["hello"], [tokens.token_id("hello")], [[tokens.token_id("hello")]]])
async def test_embeddings_take_text_and_token_ids_alone_and_in_batches(client: Client, given: Any) -> None:
    _, body = await post(client, "/v1/embeddings", input=given)
    assert [each["embedding"] for each in body["data"]] == [vector("hello")]
    assert body["usage"]["total_tokens"] == 1


@pytest.mark.asyncio
async def test_embeddings_in_base64_are_little_endian_floats(client: Client) -> None:
    _, body = await post(client, "/v1/embeddings", input="hello", encoding_format="base64", dimensions=3)
    assert struct.unpack("<3f", b64decode(body["data"][0]["embedding"])) == pytest.approx(vector("hello", 3))


@pytest.mark.asyncio
async def test_rerank_puts_the_likest_document_first(client: Client) -> None:
    _, body = await post(client, "/v1/rerank", query="a b", documents=["c", "a b", "a"], top_n=2)
    assert [(each["index"], each["relevance_score"]) for each in body["results"]] == [(1, 1.0), (2, 0.5)]


@pytest.mark.asyncio
async def test_score_pairs_one_text_with_many(client: Client) -> None:
    _, body = await post(client, "/v1/score", text_1="a b", text_2=["a b", "c"])
    assert [each["score"] for each in body["data"]] == [1.0, 0.0]
    status, _ = await post(client, "/v1/score", queries=["a", "b"], documents=["a", "b", "c"])
    assert status == 400


@pytest.mark.asyncio
async def test_detokenize_undoes_tokenize(client: Client) -> None:
    _, ids = await post(client, "/tokenize", prompt="hello, wörld")
    assert ids["count"] == len(ids["tokens"])
    assert await post(client, "/detokenize", tokens=ids["tokens"]) == (200, {"prompt": "hello, wörld"})


# Models and errors


@pytest.mark.asyncio
async def test_request_without_model_gets_the_first_one(client: Client) -> None:
    _, body = await post(client, "/v1/chat/completions", **HELLO)
    assert body["model"] == "tiny"


@pytest.mark.asyncio
async def test_any_model_is_served_unless_strict(client: Client, strict: Client) -> None:
    _, body = await post(client, "/v1/chat/completions", model="x", **HELLO)
    assert body["model"] == "x"
    error = {"message": "The model `x` does not exist.", "type": "NotFoundError", "param": "model", "code": 404}
    assert await post(strict, "/v1/chat/completions", model="x", **HELLO) == (404, {"error": error})


@pytest.mark.asyncio
async def test_models_are_listed_in_openai_shape(client: Client) -> None:
    async with client.get("/v1/models") as response:
        body = await response.json()
    assert body["object"] == "list"
    assert [model["id"] for model in body["data"]] == ["tiny", "other"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": MAX_ANSWER + 1}, "max_tokens"),
        ({"n": 2}, "body.n"),
        ({"messages": []}, "body.messages"),
    ],
)
async def test_senseless_parameter_is_named(client: Client, fields: dict[str, Any], param: str) -> None:
    status, body = await post(client, "/v1/chat/completions", **(HELLO | fields))
    assert status == 400
    assert body["error"]["code"] == 400
    assert body["error"]["param"] == param


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b'{"model":',
        b"[" * 10_000,
        b"\xef\xbb\xbf{}",
        b"[1]",
        rb'{"prompt":"\ud800"}',
        b'{"prompt":"canary","n":"x"}',
    ],
)
async def test_bad_body_is_400_and_not_repeated(client: Client, raw: bytes) -> None:
    async with client.post("/v1/completions", data=raw, headers={"content-type": "application/json"}) as response:
        body = await response.json()
    assert response.status == 400
    assert body["error"]["type"] == "Bad Request"
    assert "canary" not in json.dumps(body)


@pytest.mark.asyncio
async def test_body_of_another_type_is_400(client: Client) -> None:
    async with client.post(
        "/v1/completions", data=b'{"prompt":"a"}', headers={"content-type": "text/plain"}
    ) as response:
        assert response.status == 400


@pytest.mark.asyncio
async def test_unknown_route_is_json(client: Client) -> None:
    async with client.get("/nothing") as response:
        assert (response.status, await response.json()) == (404, {"detail": "Not Found"})


@pytest.mark.asyncio
async def test_request_id_becomes_the_id_of_the_answer_even_when_it_is_not_utf8(client: Client) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    body = b'{"prompt":"hi"}'
    writer.write(b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nX-Request-Id: a\xff\r\n")
    writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    answer = (await reader.read()).partition(b"\r\n\r\n")[2]
    writer.close()
    assert json.loads(answer)["id"] == "cmpl-a?"


# Clients and the process


@pytest.mark.asyncio
async def test_openai_sdk_reads_every_api(client: Client) -> None:
    sdk = AsyncOpenAI(base_url=str(client.make_url("/v1")), api_key="none", max_retries=0)
    async with sdk:
        streamed = await sdk.responses.create(model="tiny", input="hello", stream=True)
        assert [event.type async for event in streamed][-1] == "response.completed"
        assert (await sdk.responses.create(model="tiny", input="hello")).output_text == "You said: hello\n"
        assert len((await sdk.embeddings.create(model="tiny", input="hello")).data[0].embedding) == 8
        chat = await sdk.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hello"}])
        assert chat.choices[0].message.content == "You said: hello\n"


@pytest.mark.asyncio
async def test_terminated_process_cuts_an_open_stream(tmp_path: Any) -> None:
    path = str(tmp_path / "demo.sock")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = (sys.executable, "-m", "demo_model_server", "--port", port, "--unix-socket", path)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    try:
        async with ClientSession(connector=UnixConnector(path), base_url="http://demo") as session:
            await _healthy(session)
            asked = HELLO | {"stream": True, "max_tokens": 10_000, "ignore_eos": True}
            async with session.post("/v1/chat/completions", json=asked) as response:
                await response.content.readline()
                process.send_signal(signal.SIGTERM)
                with pytest.raises(ClientPayloadError):
                    await response.read()
        assert await asyncio.wait_for(process.wait(), 5) == 0
    finally:
        if process.returncode is None:
            process.kill()


async def _healthy(session: ClientSession) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            async with session.get("/health") as response:
                assert response.status == 200
                return
        except OSError:
            await asyncio.sleep(0.02)
    raise TimeoutError("the server did not start")
