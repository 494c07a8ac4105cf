"""What an answer has used, in every shape that servers send; and what its client sees of that."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testkit.lua_scripts import Streamed, counts, cut, stream_answer

DONE = b"data: [DONE]\n\n"


def event(data: Any, name: str | None = None) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def chunk(text: str | None, usage: Any = None, index: int = 0, finish: str | None = None, **more: Any) -> bytes:
    delta = {} if text is None else {"content": text}
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return event({"id": "c", "choices": [choice], **({"usage": usage} if usage else {}), **more})


def used(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}


def final(usage: Any, **more: Any) -> bytes:
    return event({"id": "c", "choices": [], "usage": usage, **more})


SHAPES: list[tuple[dict[str, Any], dict[str, int]]] = [
    ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}, {"input": 3, "output": 4}),
    ({"prompt_tokens": 5, "total_tokens": 5}, {"input": 5}),
    ({"prompt_tokens": 5, "total_tokens": 9}, {"input": 5, "output": 4}),
    ({"total_tokens": 62}, {"input": 62}),
    ({"total_tokens": 9, "completion_tokens": 4}, {"input": 5, "output": 4}),
    ({"input_tokens": 3, "output_tokens": 4}, {"input": 3, "output": 4}),
    (
        {"input_tokens": 3, "output_tokens": 4, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 2},
        {"input": 15, "output": 4, "cached": 10},
    ),
    (
        {"prompt_tokens": 30, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 16}},
        {"input": 30, "output": 4, "cached": 16},
    ),
    (
        {"input_tokens": 30, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 16}},
        {"input": 30, "output": 4, "cached": 16},
    ),
    ({"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": None}, {"input": 3, "output": 4}),
    ({"prompt_tokens": 3.0, "completion_tokens": 4e0}, {"input": 3, "output": 4}),
    ({"prompt_tokens": -1, "completion_tokens": None, "total_tokens": "7"}, {}),
    ({}, {}),
]


@pytest.mark.parametrize(("usage", "wanted"), SHAPES)
def test_usage_counts_in_every_shape(usage: dict[str, Any], wanted: dict[str, int]) -> None:
    assert counts(json.dumps(usage).encode()) == wanted


@pytest.mark.parametrize(
    "details", ["", ',"completion_tokens_details":null', ',"completion_tokens_details":{"reasoning_tokens":1}']
)
@pytest.mark.parametrize(
    "counted", ['"total_tokens":11,"completion_tokens":2', '"completion_tokens":2,"total_tokens":11']
)
@pytest.mark.parametrize("hide", ["all", "running", None])
def test_running_usage_is_cut_out_whatever_its_details(details: str, counted: str, hide: str | None) -> None:
    head = '{"id":"c","choices":[{"index":0,"delta":{"content":"x"}}]'
    usage = f',"usage":{{"prompt_tokens":9,{counted}{details}}}'
    streamed = stream_answer([f"data: {head}{usage}}}\n\n".encode()], hide)
    assert streamed.seen[0] == f"data: {head}{'' if hide else usage}}}\n\n".encode()
    assert (streamed.told["input_tokens"], streamed.told["output_tokens"]) == (9, 2)


def test_the_last_running_count_holds_when_a_stream_breaks_off() -> None:
    told = stream_answer([chunk("a", used(9, 1)), chunk("b", used(9, 2)), chunk("c", used(9, 3))[:-9]]).told
    assert (told["input_tokens"], told["output_tokens"]) == (9, 2)


@pytest.mark.parametrize(
    "counts_first", [used(30, 1), {"prompt_tokens": 30, "completion_tokens": 1, "total_tokens": 31}]
)
def test_a_prompt_that_is_counted_lower_at_the_end_stays_what_it_was(counts_first: dict[str, int]) -> None:
    told = stream_answer([chunk("a", counts_first), final(used(10, 2))], "all").told
    assert (told["input_tokens"], told["output_tokens"]) == (30, 2)


def test_running_counts_are_each_choices_own() -> None:
    events = [chunk("x", used(5, tokens), index) for tokens in range(1, 101) for index in range(4)]
    assert stream_answer(events, "all", per_choice=True).told["output_tokens"] == 400
    assert stream_answer([*events, final(used(5, 398))], "all", per_choice=True).told["output_tokens"] == 398


def test_messages_that_break_off_count_what_they_produced() -> None:
    start = {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 12, "output_tokens": 0}}}
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 207}}
    events = [event(start, "message_start"), *[event(delta, "content_block_delta")] * 50]
    told = stream_answer(events).told
    assert (told["input_tokens"], told["output_tokens"], told["produced"]) == (12, 0, 50)
    assert stream_answer([*events, event(end, "message_delta")]).told["output_tokens"] == 207


def test_messages_whose_first_event_counts_ahead_still_count_what_they_produced() -> None:
    usage = {"input_tokens": 3, "cache_read_input_tokens": 10, "output_tokens": 1}
    start = event({"type": "message_start", "message": {"usage": usage}})
    delta = event({"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": "{"}})
    told = stream_answer([start, *[delta] * 50]).told
    assert (told["input_tokens"], told["produced"], told["first_event_ms"]) == (13, 50, 2)
    end = event({"type": "message_delta", "delta": {}, "usage": {"input_tokens": 3, "output_tokens": 207}})
    told = stream_answer([start, *[delta] * 50, end]).told
    assert (told["input_tokens"], told["output_tokens"]) == (13, 207)


def test_a_response_that_is_incomplete_is_counted() -> None:
    usage = {"input_tokens": 9, "output_tokens": 77, "input_tokens_details": {"cached_tokens": 4}}
    end = {"type": "response.incomplete", "response": {"usage": usage, "error": None}}
    told = stream_answer([event({"type": "response.output_text.delta", "delta": "x"}), event(end)]).told
    assert (told["input_tokens"], told["output_tokens"], told["cached_tokens"]) == (9, 77, 4)
    assert "error" not in told


def test_responses_that_break_off_count_what_they_produced() -> None:
    created = {"type": "response.created", "response": {"id": "r", "usage": None, "error": None}}
    delta = {"type": "response.output_text.delta", "delta": "some more text"}
    done = {"type": "response.completed", "response": {"usage": {"input_tokens": 9, "output_tokens": 77}}}
    events = [event(created, "response.created"), *[event(delta)] * 20]
    told = stream_answer(events).told
    assert told["produced"] == 20 * 4, "a delta may hold several tokens"
    assert "input_tokens" not in told
    told = stream_answer([*events, event(done)]).told
    assert (told["input_tokens"], told["output_tokens"]) == (9, 77)


def test_a_server_that_counts_at_the_end_alone_has_produced_its_events_until_then() -> None:
    role = event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
    told = stream_answer([role, *[chunk("x")] * 30]).told
    assert told["produced"] == 30
    assert "output_tokens" not in told


def test_usage_within_a_choice_counts() -> None:
    choice = {"index": 0, "delta": {}, "finish_reason": "stop", "usage": used(5, 6)}
    assert stream_answer([event({"id": "c", "choices": [choice]})]).told["output_tokens"] == 6


ERRORS = [
    (event({"error": {"message": "boom", "type": "server_error", "code": "engine_dead"}}), "engine_dead"),
    (event({"error": {"message": "boom", "type": "InternalServerError", "code": 500}}), "InternalServerError"),
    (event({"error": "boom"}), "error"),
    (event({"object": "error", "message": "boom", "type": "BadRequestError", "code": 400}), "BadRequestError"),
    (event({"error": {"object": "error", "message": "boom"}, "choices": []}), "error"),
    (event({"type": "error", "error": {"type": "overloaded_error"}}, "error"), "overloaded_error"),
    (event({"type": "response.failed", "response": {"error": {"code": "server_error"}}}), "server_error"),
    (event({"type": "error", "message": "boom"}), "error"),
]


@pytest.mark.parametrize(("bad", "code"), ERRORS)
def test_an_error_within_a_stream_is_told(bad: bytes, code: str) -> None:
    streamed = stream_answer([chunk("a", used(9, 1)), chunk("b", used(9, 2)), bad, DONE], "all")
    assert (streamed.told["error"], streamed.told["output_tokens"]) == (code, 2)
    assert streamed.all.endswith(bad + DONE)


@pytest.mark.parametrize("no_error", [None, False])
def test_what_is_no_error_is_none(no_error: Any) -> None:
    assert "error" not in stream_answer([chunk("a", error=no_error), DONE]).told


NOTHING_YET = [
    b": keep-alive\n\n",
    b": ping\n",
    event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}),
    event({"type": "message_start", "message": {"usage": {"input_tokens": 5, "output_tokens": 0}}}),
    event({"type": "ping"}),
    event({"type": "response.created", "response": {"tools": [{"name": "f"}], "usage": None}}),
    event({"type": "response.in_progress", "response": {}}),
    chunk(None, used(5, 0)),
]
SOMETHING = [
    chunk("x"),
    chunk(None, used(5, 1)),
    event({"choices": [{"index": 0, "text": "x"}]}),
    event({"choices": [{"index": 0, "delta": {"reasoning_content": "x"}}]}),
    event({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"name": "f"}}]}}]}),
    event({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}}]}),
    event({"choices": [{"index": 0, "delta": {"content": [{"type": "text", "text": "x"}]}}]}),
    event({"choices": [{"index": 0, "delta": {"refusal": "x"}}]}),
    event({"type": "response.function_call_arguments.delta", "delta": "{"}),
    event({"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": "{"}}),
    event({"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "x"}}),
    event({"type": "response.reasoning_text.delta", "delta": "x"}),
]


@pytest.mark.parametrize("first", SOMETHING)
def test_the_first_event_is_the_first_that_carries_something(first: bytes) -> None:
    told = stream_answer([*NOTHING_YET, first, first]).told
    assert told["first_event_ms"] == len(NOTHING_YET) + 1
    assert "first_event_ms" not in stream_answer(NOTHING_YET).told


@pytest.mark.parametrize(
    "data", ["1", "null", "true", '"x"', "-0.5", "[]", "", "{", "[DONE", "\\", '{"usage":7}', "}{"]
)
@pytest.mark.parametrize("hide", ["all", "running", None])
def test_data_of_any_kind_passes(data: str, hide: str | None) -> None:
    odd = f"data: {data}\n\n".encode()
    streamed = stream_answer([chunk("a", used(9, 1)), odd, chunk("b", used(9, 2)), DONE], hide)
    assert odd in streamed.all
    assert streamed.told["output_tokens"] == 2


FORGED = [
    {"metadata": {"usage": used(0, 0)}},
    {"tools": [{"parameters": {"properties": {"usage": used(0, 0)}}}]},
    {"choices": [{"index": 0, "delta": {"content": 'x","usage":{"prompt_tokens":0}'}}]},
]


@pytest.mark.parametrize("echo", FORGED)
def test_what_a_client_had_echoed_counts_nothing(echo: dict[str, Any]) -> None:
    told = stream_answer(
        [event({**echo, "usage": used(9, 4)}), event({"response": {**echo, "usage": used(9, 5)}})]
    ).told
    assert (told["input_tokens"], told["output_tokens"]) == (9, 5)


# What the client sees.


def test_usage_on_the_finishing_chunk_is_shown_once_to_who_asked_for_it() -> None:
    last = chunk(None, used(9, 2), finish="stop")
    streamed = stream_answer([chunk("a", used(9, 1)), last, DONE], "running")
    assert streamed.all == chunk("a") + chunk(None, finish="stop") + final(used(9, 2)) + DONE
    streamed = stream_answer([chunk("a", used(9, 1)), last, final(used(9, 2)), DONE], "running")
    assert streamed.all == chunk("a") + chunk(None, finish="stop") + final(used(9, 2)) + DONE


def test_a_last_event_that_is_no_json_owes_nothing() -> None:
    odd = b'data: {"choices":[x],"usage":{"prompt_tokens":9,"total_tokens":11,"completion_tokens":2}}\n\n'
    streamed = stream_answer([odd, DONE], "running")
    assert streamed.all == b'data: {"choices":[x]}\n\n' + DONE
    assert streamed.told["output_tokens"] == 2


def test_usage_is_never_made_up_for_a_stream_that_broke_off() -> None:
    assert stream_answer([chunk("a", used(9, 1)), b"data: {"], "running").all.count(b"usage") in (0, 1)


def test_the_last_event_keeps_what_is_not_usage() -> None:
    last = {"id": "c", "choices": [], "citations": ["a"]}
    streamed = stream_answer([chunk("a"), event({**last, "usage": used(9, 1)}), DONE], "all")
    assert streamed.all == chunk("a") + event(last) + DONE
    assert streamed.told["output_tokens"] == 1


def test_usage_over_several_lines_of_data_is_hidden_and_counted() -> None:
    lines = b'data: {"id":"c",\ndata: "choices":[{"index":0,"delta":{"content":"a"}}],\ndata: "usage":%s}\n\n'
    streamed = stream_answer([lines % json.dumps(used(9, 1)).encode(), DONE], "all")
    assert b"usage" not in streamed.all
    assert b'"content":"a"' in streamed.all
    assert streamed.told["output_tokens"] == 1
    data = b"\n".join(line[6:] for line in streamed.all.split(b"\n\n")[0].split(b"\n"))
    assert json.loads(data) == {"id": "c", "choices": [{"index": 0, "delta": {"content": "a"}}]}


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_events_arrive_as_they_end_however_lines_end(ending: bytes) -> None:
    def framed(text: bytes) -> bytes:
        return text.replace(b"\n", ending)

    streamed = stream_answer([framed(chunk("a", used(9, 1))), framed(chunk("b", used(9, 2))), framed(DONE)], "all")
    assert streamed.all == framed(chunk("a") + chunk("b") + DONE)
    if ending != b"\r\n":
        assert streamed.seen[:2] == [framed(chunk("a")), framed(chunk("b"))], "at once"


@pytest.mark.parametrize("comment", [b": keep-alive\n", b":\n", b": a\r\n", b": a\r", b": a\n\n"])
def test_comments_are_not_held_back(comment: bytes) -> None:
    assert stream_answer([comment] * 3, "all").seen[:3] == [comment] * 3


def test_without_anything_to_hide_no_byte_is_held() -> None:
    pieces = cut(chunk("a", used(9, 1)) + chunk("b", used(9, 2)) + final(used(9, 3)) + DONE, 7)
    streamed = stream_answer(pieces)
    assert streamed.seen[:-1] == pieces
    assert streamed.told["output_tokens"] == 3


def test_an_event_of_megabytes_passes_and_counts() -> None:
    big = event({"type": "response.completed", "response": {"output": "x" * 3_000_000, "usage": {"output_tokens": 5}}})
    for hide in (None, "all"):
        streamed = stream_answer(cut(big, 16_384), hide)
        assert streamed.all == big
        assert streamed.told["output_tokens"] == 5


@pytest.mark.parametrize("filling", [b"0," * 512, b"0,\rdata: " * 128])
def test_an_event_without_end_is_passed_on(filling: bytes) -> None:
    endless = cut(b'data: {"choices":[' + filling * 12 * 2**10, 65_536)
    streamed = stream_answer(endless, "all")
    assert streamed.all == b"".join(endless)
    assert len(streamed.seen[-2]) == len(endless[-1]), "from ten megabytes on nothing is held"


@settings(max_examples=300, deadline=None)
@given(
    contents=st.lists(st.text(max_size=30), min_size=1, max_size=4),
    cuts=st.sets(st.integers(1, 500), max_size=8),
    ending=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    comments=st.booleans(),
)
def test_any_content_cut_anywhere_arrives_as_it_was(
    contents: list[str], cuts: set[int], ending: bytes, comments: bool
) -> None:
    between = b": ping\n\n" if comments else b""
    stream = (
        b"".join(chunk(text, used(9, at + 1)) + between for at, text in enumerate(contents)) + final(used(9, 9)) + DONE
    )
    shown = b"".join(chunk(text) + between for text in contents) + DONE
    stream, shown = stream.replace(b"\n", ending), shown.replace(b"\n", ending)
    edges = [0, *sorted(at for at in cuts if at < len(stream)), len(stream)]
    streamed: Streamed = stream_answer([stream[a:b] for a, b in pairwise(edges)], "all")
    assert streamed.all == shown
    assert streamed.told["output_tokens"] == 9
