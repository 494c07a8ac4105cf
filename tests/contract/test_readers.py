"""Asking for usage and hiding it again, in a real Envoy: everything else passes byte for byte."""

import json
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehouse.contract import names
from gatehouse.envoy import filters
from testkit.lua_scripts import Refused, cut, read_request
from testkit.request_bodies import DIALECTS, bodies
from tests.contract.bare_envoy import BareEnvoy, bare_envoy

CHAT = "/v1/chat/completions"
ASKED = b',"stream_options":{"include_usage":true,"continuous_usage_stats":true}}'
NOTHING = b'{"model":"m","stream":true}'
USAGE_ONLY = b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}'
CONTINUOUS = b'{"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}'

USAGE = '"usage": {"prompt_tokens": 3, "total_tokens": 4, "details": {"cached_tokens": 0}}'
CHUNK = ['"id": "c-1"', '"choices": [{"index": 0, "delta": {"content": "Hi"}}]', '"model": "m"']
FINAL = b'data: {"id":"c-1","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.fixture(scope="module")
def envoy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareEnvoy]:
    by_name = {each["name"]: each for each in filters.chain(32 * 2**20)}
    under_test = [by_name[name] for name in (names.READER, names.WHOLE_BODY, names.ANSWERS)]
    with bare_envoy(under_test, tmp_path_factory.mktemp("envoy")) as running:
        yield running


def event(members: list[str], separator: str = ", ") -> bytes:
    return f"data: {{{separator.join(members)}}}\n\n".encode()


def with_usage(at: int, members: list[str] = CHUNK, separator: str = ", ", usage: str = USAGE) -> bytes:
    return event([*members[:at], usage, *members[at:]], separator)


def answer_to(envoy: BareEnvoy, body: bytes, *pieces: bytes, path: str = CHAT) -> bytes:
    """What a client that sends `body` sees when the model server writes `pieces`."""
    envoy.backend.pieces = pieces
    return envoy.exchange(body, path)[1]


def request_for(envoy: BareEnvoy, body: bytes, path: str = CHAT) -> bytes:
    """What the model server gets when the client sends `body`."""
    envoy.backend.pieces = [DONE]
    return envoy.exchange(body, path)[0]


OPTIONS = b'{"include_usage":true,"continuous_usage_stats":true}'
ASKED_FOR = [
    (b'{"model":"m","stream":true}', b'{"model":"m","stream":true%s}' % ASKED[:-1]),
    (
        b'{ "model":"m", "stream" : true , "odd":1.0, "big":9007199254740993, "a":{"z":1,"a":2} }',
        b'{ "model":"m", "stream" : true , "odd":1.0, "big":9007199254740993, "a":{"z":1,"a":2} %s}' % ASKED[:-1],
    ),
    (USAGE_ONLY, USAGE_ONLY[:-2] + b',"continuous_usage_stats":true}}'),
    (
        b'{"model":"m","stream":true,"stream_options":null}',
        b'{"model":"m","stream":true,"stream_options":%s}' % OPTIONS,
    ),
    (b'{"model":"m","stream_options":{},"stream":true}', b'{"model":"m","stream_options":%s,"stream":true}' % OPTIONS),
    (b'{"model":"m","stream":"true"}', b'{"model":"m","stream":"true"%s}' % ASKED[:-1]),
]


@pytest.mark.parametrize(("body", "wanted"), ASKED_FOR)
@pytest.mark.parametrize("space", [b"", b"\r\n\t  "])
def test_a_stream_is_asked_for_usage_and_no_other_byte_is_touched(
    envoy: BareEnvoy, body: bytes, wanted: bytes, space: bytes
) -> None:
    received = request_for(envoy, body + space)
    assert received == wanted + space
    assert json.loads(received)["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


@pytest.mark.parametrize("size", [1, 3, 40])
def test_a_member_is_changed_where_it_stands_however_the_body_comes(envoy: BareEnvoy, size: int) -> None:
    envoy.backend.pieces = [DONE]
    for body, wanted in ASKED_FOR:
        received, _ = envoy.exchange(iter([body[at : at + size] for at in range(0, len(body), size)]), CHAT)
        assert received == wanted


@pytest.mark.parametrize("megabytes", [1, 8, 31])
@pytest.mark.parametrize(
    "shape", [b'{"model":"m","x":"%s","stream":true}', b'{"stream_options":{},"stream":true,"x":"%s","model":"m"}']
)
def test_a_large_body_arrives_whole(envoy: BareEnvoy, megabytes: int, shape: bytes) -> None:
    body = shape % (b"x" * megabytes * 2**20)
    received = request_for(envoy, body)
    assert len(received) == len(body) + (len(ASKED) - 1 if b"options" not in shape else len(OPTIONS) - 2)
    assert json.loads(received)["stream_options"] == json.loads(OPTIONS)
    assert received.count(b"x" * 1000) == body.count(b"x" * 1000)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(bodies(), st.sampled_from(list(DIALECTS)), st.sampled_from([1, 7, 40, 100_000]))
def test_what_envoy_reads_of_any_body_is_what_the_script_does(
    envoy: BareEnvoy, body: bytes, path: str, size: int
) -> None:
    envoy.backend.pieces = [DONE]
    received, _ = envoy.exchange(iter(cut(body, size)) if body else body, path)
    script = read_request(cut(body, size), path)
    if isinstance(script, Refused):
        assert envoy.said == f"{script.code}/{script.param or ''}///"
    else:
        stream = "true" if script.stream else ""
        assert envoy.said == f"//{stream}/{script.hide or ''}/{script.asks}"
        assert received == script.body


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", f"{CHAT}?a=b"])
def test_both_streaming_endpoints_are_asked(envoy: BareEnvoy, path: str) -> None:
    assert request_for(envoy, NOTHING, path) == NOTHING[:-1] + ASKED


def test_a_chunked_body_is_asked_and_arrives_whole(envoy: BareEnvoy) -> None:
    envoy.backend.pieces = [DONE]
    received, answer = envoy.exchange(iter([NOTHING[:5], NOTHING[5:]]), CHAT)
    assert (received, answer) == (NOTHING[:-1] + ASKED, DONE)


LEFT_ALONE = [
    (CONTINUOUS, CHAT),
    (b'{"model":"m"}', CHAT),
    (b'{"model":"m","stream":false} \n', CHAT),
    (b'{"model":"m","stream":null}', CHAT),
    (b'{"model":"m","stream":"false","stream_options":null}', CHAT),
    (b'["stream",true]', CHAT),
    (b"true", CHAT),
    (b'{"stream":true', CHAT),
    (b"", CHAT),
    (NOTHING, "/v1/responses"),
    (NOTHING, "/v1/messages"),
    (NOTHING, "/v1/chat/completions/render"),
]


@pytest.mark.parametrize(("body", "path"), LEFT_ALONE)
def test_every_other_body_arrives_as_it_was_sent(envoy: BareEnvoy, body: bytes, path: str) -> None:
    assert request_for(envoy, body, path) == body


@pytest.mark.parametrize("separator", [",", ", "])
@pytest.mark.parametrize("usage", [USAGE, USAGE.replace(" ", ""), '"usage":{}', '"usage" : null'])
@pytest.mark.parametrize("at", range(len(CHUNK) + 1), ids=["first", "second", "third", "last"])
def test_usage_is_cut_out_of_an_event_wherever_it_stands(envoy: BareEnvoy, at: int, usage: str, separator: str) -> None:
    whole = with_usage(at, separator=separator, usage=usage)
    assert answer_to(envoy, NOTHING, whole, DONE) == event(CHUNK, separator) + DONE


CONTENTS = [
    ',"usage":{"prompt_tokens":1}',
    ', "usage" : null',
    '"choices":[],"usage":{}',
    'data: {"usage":{}}\n\ndata: [DONE]\n\n',
    "usage",
    '\\"usage\\":{}',
    "\r\n\r\n",
    "}{",
]


@pytest.mark.parametrize("content", CONTENTS)
def test_what_the_model_wrote_is_never_taken_for_usage(envoy: BareEnvoy, content: str) -> None:
    members = [f'"choices":[{{"delta":{{"content":{json.dumps(content)}}}}}]', f'"key":{json.dumps(content)}']
    seen = answer_to(envoy, NOTHING, event(members), with_usage(1, members), DONE)
    assert seen == event(members) * 2 + DONE


def test_usage_is_cut_out_however_often_it_is_there(envoy: BareEnvoy) -> None:
    choice = '"choices":[{"delta":{"content":"usage"}%s}]'
    whole = event([USAGE, '"id":"1"', choice % ',"usage":null', '"usage":null', USAGE])
    assert answer_to(envoy, NOTHING, whole, DONE) == event(['"id":"1"', choice % ""]) + DONE


@pytest.mark.parametrize(
    "line", [b'"usage":{}\n\n', b'data: ["usage"]\n\n', b'data: ["usage",{}]\n\n', b'data: {"usage":7}\n\n']
)
def test_what_is_no_member_of_an_object_is_left_alone(envoy: BareEnvoy, line: bytes) -> None:
    assert answer_to(envoy, NOTHING, line, DONE) == line + DONE


def test_the_final_event_is_dropped_unless_the_client_asked_for_it(envoy: BareEnvoy) -> None:
    pieces = with_usage(3), FINAL, DONE
    assert answer_to(envoy, NOTHING, *pieces) == event(CHUNK) + DONE
    assert answer_to(envoy, USAGE_ONLY, *pieces) == event(CHUNK) + FINAL + DONE
    assert answer_to(envoy, CONTINUOUS, *pieces) == b"".join(pieces)


def test_an_event_without_choices_that_counts_nothing_is_kept(envoy: BareEnvoy) -> None:
    filtered = b'data: {"choices":[],"prompt_filter_results":[{"index":0}]}\n\n'
    nulled = filtered.replace(b"}\n", b',"usage":null}\n')
    assert answer_to(envoy, NOTHING, filtered, nulled, DONE) == filtered * 2 + DONE


STREAM = with_usage(3, CHUNK[:2]) + b": ping\n\n" + b"event: e\nid: 1\n" + with_usage(0, CHUNK[1:]) + FINAL + DONE
SHOWN = event(CHUNK[:2]) + b": ping\n\n" + b"event: e\nid: 1\n" + event(CHUNK[1:]) + DONE


def crlf(events: bytes) -> bytes:
    return events.replace(b"\n", b"\r\n")


def test_a_split_at_any_offset_changes_nothing(envoy: BareEnvoy) -> None:
    for stream, shown in ((STREAM, SHOWN), (crlf(STREAM), crlf(SHOWN))):
        wrong = [at for at in range(1, len(stream)) if answer_to(envoy, NOTHING, stream[:at], stream[at:]) != shown]
        assert wrong == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    contents=st.lists(st.text(max_size=30), min_size=1, max_size=4),
    ats=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    cuts=st.sets(st.integers(1, 500), max_size=6),
    windows=st.booleans(),
)
def test_any_content_cut_anywhere_arrives_as_it_was(
    envoy: BareEnvoy, contents: list[str], ats: list[int], cuts: set[int], windows: bool
) -> None:
    chunks = [['"id":"1"', f'"choices":[{{"text":{json.dumps(text, ensure_ascii=False)}}}]'] for text in contents]
    stream = b"".join(with_usage(at, chunk) for at, chunk in zip(ats, chunks, strict=False)) + FINAL + DONE
    shown = b"".join(map(event, chunks)) + DONE
    if windows:
        stream, shown = crlf(stream), crlf(shown)
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    assert answer_to(envoy, NOTHING, *(stream[a:b] for a, b in pairwise(edges))) == shown


def test_an_event_of_1_mib_passes_whole(envoy: BareEnvoy) -> None:
    big = [f'"choices":[{{"delta":{{"content":"{"x" * 2**20}"}}}}]', '"id":"1"']
    assert answer_to(envoy, NOTHING, with_usage(1, big), DONE) == event(big) + DONE


ENDINGS = [
    (b"data: [DONE]", b"data: [DONE]"),
    (b"data: [DONE]\n", b"data: [DONE]\n"),
    (b'data: {"choices":[{"te', b'data: {"choices":[{"te'),
    (with_usage(3).rstrip(b"\n"), event(CHUNK).rstrip(b"\n")),
    (FINAL.rstrip(b"\n"), b""),
]


@pytest.mark.parametrize(("written", "seen"), ENDINGS)
def test_a_last_event_without_its_blank_line_is_not_lost(envoy: BareEnvoy, written: bytes, seen: bytes) -> None:
    assert answer_to(envoy, NOTHING, with_usage(3), written) == event(CHUNK) + seen


def test_a_stream_with_a_declared_length_is_cut_like_any_other(envoy: BareEnvoy) -> None:
    envoy.backend.with_length = True
    try:
        assert answer_to(envoy, NOTHING, STREAM) == SHOWN
    finally:
        envoy.backend.with_length = False


def test_an_answer_that_is_no_stream_is_left_alone(envoy: BareEnvoy) -> None:
    body = b'{"error": {"message": "no"}, "usage": {"prompt_tokens": 3}, "choices": []}\n\n'
    envoy.backend.content_type = "application/json"
    try:
        assert answer_to(envoy, NOTHING, body) == body
    finally:
        envoy.backend.content_type = "text/event-stream"


def test_a_stream_that_was_not_asked_for_usage_is_left_alone(envoy: BareEnvoy) -> None:
    for body, path in ((b'{"model":"m"}', CHAT), (NOTHING, "/v1/responses")):
        assert answer_to(envoy, body, STREAM, path=path) == STREAM
