"""What Envoy reads in a request's body is what its model server reads there, or the request is refused."""

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testkit.lua_scripts import Asked, Refused, cut, read_request
from testkit.request_bodies import DIALECTS, Read, as_server, bodies

CHAT, COMPLETIONS, RESPONSES, MESSAGES = DIALECTS
MOST = 999_999_999_999


def said(asked: Asked) -> tuple[str, bool, int | None, int]:
    most, choices, _, _ = asked.asks.split("/")
    return asked.model, asked.stream, None if most == "-" else int(most), int(choices)


def expected(read: Read, default: str | None) -> tuple[str | None, bool, int | None, int]:
    most = None if read.most is None else min(max(read.most, 1), MOST)  # nothing at all, servers refuse or take for all
    return default if read.model is None else read.model, read.stream, most, min(read.choices, MOST)


def agree(body: bytes, pieces: list[bytes], path: str, default: str | None) -> None:
    """What the server would do with what it gets is what was counted, and it gets what the client has sent."""
    ours = read_request(pieces, path, default_model=default)
    if isinstance(ours, Refused):
        return
    server = as_server(body, path)
    if server is None:  # it answers with an error of its own
        return
    assert said(ours) == expected(server, default)
    written = as_server(ours.body, path)
    assert written is not None, "the server takes what was written"
    assert written.model == ours.model
    assert (written.stream, written.most, written.choices) == (server.stream, server.most, server.choices)
    if ours.stream and path in (CHAT, COMPLETIONS):
        assert written.running, "every event counts"
    assert without(ours.body) == without(body), "nothing else was touched"
    for name in ("stream_options", "model"):
        assert names_in(ours.body).count(name) == max(names_in(body).count(name), names_in(ours.body).count(name) and 1)


def names_in(body: bytes) -> list[str]:
    pairs: list[tuple[str, Any]] = json.loads(body, object_pairs_hook=list)
    return [name for name, _ in pairs]


def without(body: bytes) -> Any:
    """The members of the body but those that the gateway writes, in their order."""
    pairs: list[tuple[str, Any]] = json.loads(body, object_pairs_hook=list)
    return repr([(name, value) for name, value in pairs if name not in ("stream_options", "model")])


def check(data: st.DataObject) -> None:
    body, path = data.draw(bodies()), data.draw(st.sampled_from(list(DIALECTS)))
    size = data.draw(st.sampled_from([1, 2, 3, 5, 17, 100_000]))
    agree(body, cut(body, size), path, data.draw(st.sampled_from([None, "default"])))


@settings(max_examples=1_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_a_body_is_the_reader_and_the_server_agree_on_it(data: st.DataObject) -> None:
    check(data)


@pytest.mark.slow
@settings(max_examples=100_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_of_100_000_bodies_there_is_none_on_which_they_differ(data: st.DataObject) -> None:
    check(data)


ORDINARY: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"model": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)},
    optional={
        "messages": st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": st.text()})),
        "stream": st.booleans() | st.none(),
        "max_tokens": st.integers(1, 10**6) | st.none(),
        "n": st.integers(1, 128),
        "temperature": st.floats(0, 2),
        "stop": st.lists(st.text(max_size=5)) | st.none(),
        "stream_options": st.fixed_dictionaries({}, optional={"include_usage": st.booleans()}),
    },
)


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(ORDINARY, st.booleans(), st.sampled_from([1, 7, 100_000]))
def test_an_ordinary_request_is_never_refused(request: dict[str, Any], ascii_only: bool, size: int) -> None:
    body = json.dumps(request, ensure_ascii=ascii_only).encode()
    assert isinstance(read_request(cut(body, size)), Asked)


CASES: list[tuple[str, str, str]] = [
    (CHAT, '"max_completion_tokens":2000,"max_output_tokens":1', "2000/1"),
    (CHAT, '"max_completion_tokens":10,"max_tokens":2000', "10/1"),
    (CHAT, '"max_completion_tokens":null,"max_tokens":2000', "2000/1"),
    (CHAT, '"max_output_tokens":1', "-/1"),
    (CHAT, '"max_tokens":3000.0', "3000/1"),
    (CHAT, '"max_tokens":"3000"', "3000/1"),
    (CHAT, '"max_tokens":1234567890123', f"{MOST}/1"),
    (CHAT, '"max_tokens":0', "1/1"),
    (COMPLETIONS, '"max_tokens":"0"', "1/1"),
    (CHAT, '"max_tokens":-1', "-/1"),
    (CHAT, '"max_tokens":null', "-/1"),
    (CHAT, '"max_tokens":90,"n":10', "90/10"),
    (CHAT, '"max_tokens":90,"n":"10"', "90/10"),
    (CHAT, '"max_tokens":90,"n":10.0', "90/10"),
    (CHAT, '"max_tokens":90,"n":1,"n":10', "90/10"),
    (CHAT, '"max_tokens":90,"n":-3', "90/1"),
    (CHAT, '"max_tokens":90,"n":0', "90/1"),
    (CHAT, '"max_tokens":90,"n":null', "90/1"),
    (CHAT, '"max_tokens":5,"\\u006dax_tokens":7', "7/1"),
    (COMPLETIONS, '"max_tokens":5,"n":2,"prompt":["a","b","c"]', "5/6"),
    (COMPLETIONS, '"max_tokens":5,"prompt":[1,2,3]', "5/1"),
    (COMPLETIONS, '"max_tokens":5,"prompt":[[1],[2,3]]', "5/2"),
    (COMPLETIONS, '"max_tokens":5,"prompt":"a, b"', "5/1"),
    (COMPLETIONS, '"max_tokens":5,"n":1,"best_of":4', "5/4"),
    (RESPONSES, '"max_output_tokens":8,"max_tokens":1', "8/1"),
    (MESSAGES, '"max_tokens":8,"max_completion_tokens":1', "8/1"),
    ("/v1/embeddings", '"input":"x","max_tokens":8', "0/1"),
    ("/v1/rerank", '"query":"x"', "0/1"),
    ("/tokenize", '"prompt":"x"', "0/1"),
]


@pytest.mark.parametrize(("path", "members", "asks"), CASES)
def test_each_endpoint_has_names_of_its_own(path: str, members: str, asks: str) -> None:
    body = f'{{"model":"m",{members}}}'.encode()
    asked = read_request(body, path)
    assert isinstance(asked, Asked)
    assert asked.asks.startswith(asks + "/")
    assert asked.body == body


def test_where_a_server_is_not_known_to_prefer_one_name_the_largest_counts() -> None:
    asked = read_request(b'{"model":"m","max_completion_tokens":10,"max_tokens":2000}', asks=("include_usage",))
    assert isinstance(asked, Asked)
    assert asked.asks.startswith("2000/")


def test_a_prompt_counts_by_its_real_size_and_media_by_their_number() -> None:
    image = "data:image/png;base64," + "A" * 600_000
    for size in (1000, 65536, 10**6):
        body = json.dumps({"model": "m", "messages": [{"content": [{"url": image}, {"text": "x" * 1000}]}]}).encode()
        asked = read_request(cut(body, size))
        assert isinstance(asked, Asked)
        _, _, prompt, images = asked.asks.split("/")
        assert (int(prompt), images) == (len(body) - len(image) - 1, "1")


def test_what_uses_no_tokens_asks_for_none() -> None:
    for path in ("/tokenize", "/detokenize"):
        asked = read_request(b'{"model":"m","prompt":"data:x"}', path)
        assert isinstance(asked, Asked)
        assert asked.asks == "0/1/0/0"


STREAMS = ["true", "1", "1.0", '"true"', '"True"', '"yes"', '"on"', '"1"', '"y"', '"t"']
NO_STREAMS = ["false", "0", '"false"', '"no"', '"off"', '"0"', '"n"', '"f"', "null", "0.0", "-0"]


@pytest.mark.parametrize("value", STREAMS + NO_STREAMS)
def test_a_stream_is_one_however_it_is_asked_for(value: str) -> None:
    asked = read_request(f'{{"model":"m","stream":{value}}}'.encode())
    assert isinstance(asked, Asked)
    assert asked.stream is (value in STREAMS)
    assert (b"stream_options" in asked.body) is asked.stream


INVALID = [
    ("stream", '"maybe"'),
    ("stream", "2"),
    ("stream", "[]"),
    ("max_tokens", "3000.5"),
    ("max_tokens", '"many"'),
    ("max_tokens", "{}"),
    ("n", '"1__0"'),
    ("stream_options", '"all"'),
    ("model", '"\\ud800"'),
    ("model", f'"{"m" * 16385}"'),
]


@pytest.mark.parametrize(("name", "value"), INVALID)
def test_what_a_server_could_read_otherwise_is_refused_by_name(name: str, value: str) -> None:
    refused = read_request(f'{{"model":"m","stream":true,"{name}":{value}}}'.encode())
    assert isinstance(refused, Refused)
    assert (refused.code, refused.param) == ("invalid_value", name)
    assert f"'{name}'" in refused.text


@pytest.mark.parametrize("name", ["pair\\u0000", "\\u0000", "a\\u0000b"])
def test_no_name_holds_a_nul(name: str) -> None:
    refused = read_request(f'{{"model":"{name}"}}'.encode())
    assert isinstance(refused, Refused)
    assert refused.code == "model_not_found"


@pytest.mark.parametrize("value", ["null", None])
@pytest.mark.parametrize("size", [1, 4, 1000])
def test_the_default_model_is_written_in_where_it_stands(value: str | None, size: int) -> None:
    member = "" if value is None else f'"model": {value}, '
    body = f'{{{member}"messages":[1, 2]}}'.encode()
    asked = read_request(cut(body, size), default_model="tiny")
    assert isinstance(asked, Asked)
    wanted = body[:-1] + b',"model":"tiny"}' if value is None else body.replace(str(value).encode(), b'"tiny"', 1)
    assert (asked.model, asked.body) == ("tiny", wanted)


@pytest.mark.parametrize("value", ["null", '""', "[]", '["m"]', "7", "true", "{}", None])
def test_without_a_default_a_model_must_be_named(value: str | None) -> None:
    member = "" if value is None else f'"model": {value}, '
    refused = read_request(f'{{{member}"messages":[]}}'.encode())
    assert isinstance(refused, Refused)
    assert (refused.code, refused.param) == ("missing_model", "model")


@pytest.mark.parametrize("value", ['""', "[]", '["m"]', "7", "true", "{}"])
def test_what_is_no_name_is_not_replaced(value: str) -> None:
    refused = read_request(f'{{"model": {value}}}'.encode(), default_model="tiny")
    assert isinstance(refused, Refused)
    assert refused.code == "missing_model"


OPTIONS = [
    ("{}", '{"include_usage":true,"continuous_usage_stats":true}', "all"),
    ("null", '{"include_usage":true,"continuous_usage_stats":true}', "all"),
    ('{ "include_usage" : false }', '{ "include_usage" : true ,"continuous_usage_stats":true}', "all"),
    ('{"include_usage":true}', '{"include_usage":true,"continuous_usage_stats":true}', "running"),
    (
        '{"include_usage":"yes","a":[1, 2]}',
        '{"include_usage":"yes","a":[1, 2],"continuous_usage_stats":true}',
        "running",
    ),
    ('{"continuous_usage_stats":null,"b":"é"}', '{"continuous_usage_stats":true,"b":"é","include_usage":true}', "all"),
    ('{"include_usage":1,"continuous_usage_stats":true}', None, None),
]


@pytest.mark.parametrize(("own", "written", "hide"), OPTIONS)
@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    "shape", ['{"model":"m","stream_options":%s,"stream":true}', '{"stream":true,"model":"m", "stream_options":%s }']
)
def test_stream_options_are_changed_in_place(
    own: str, written: str | None, hide: str | None, size: int, shape: str
) -> None:
    asked = read_request(cut((shape % own).encode(), size))
    assert isinstance(asked, Asked)
    assert asked.body == (shape % (written or own)).encode()
    assert asked.hide == hide


def test_a_server_is_asked_for_what_its_kind_knows() -> None:
    body = b'{"model":"m","stream":true}'
    once = read_request(body, asks=("include_usage",))
    never = read_request(body, asks=())
    own = read_request(b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}', asks=("include_usage",))
    assert isinstance(once, Asked)
    assert isinstance(never, Asked)
    assert isinstance(own, Asked)
    assert once.body == b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}'
    assert (never.body, never.hide) == (body, "all")
    assert (own.changed, own.hide) == (0, None)


def test_only_the_chunk_that_changes_is_written() -> None:
    body = b'{"model":"m","messages":"' + b"x" * 10_000_000 + b'","stream":true}'
    asked = read_request(cut(body, 1_000_000))
    assert isinstance(asked, Asked)
    assert asked.changed == 1


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/v1/embeddings"])
def test_other_dialects_are_not_written_to(path: str) -> None:
    body = b'{"model":"m","stream":true}'
    asked = read_request(body, path)
    assert isinstance(asked, Asked)
    assert (asked.body, asked.hide) == (body, None)


def test_what_could_not_be_counted_is_refused() -> None:
    for path, member in ((RESPONSES, '"background":true'), ("/v1/embeddings", '"encoding_format":"bytes_only"')):
        refused = read_request(f'{{"model":"m",{member}}}'.encode(), path)
        assert isinstance(refused, Refused)
        assert refused.code == "not_allowed_here"
        assert refused.param is not None
        assert refused.param in member
    assert isinstance(read_request(b'{"model":"m","background":false}', RESPONSES), Asked)
    assert isinstance(read_request(b'{"model":"m","encoding_format":"bytes"}', "/v1/embeddings"), Asked)


@pytest.mark.parametrize("element", [b"0", b"{}", b"[]", b'"a"', b'{"a":1}', b"null", b"-1.5e3"])
def test_a_body_may_have_so_many_values_and_no_more(element: bytes) -> None:
    each = len(re.findall(rb'"a"(?!:)|[{\[]|[-\d][-\d.e]*|null', element))
    fits = (9_999 - 2) // each
    for number, kind in ((fits, Asked), (fits + each + 3, Refused)):
        body = b'{"model":"m","x":[' + b",".join([element] * number) + b"]}"
        found = read_request(cut(body, 1000), most_values=10_000)
        assert isinstance(found, kind)
    assert isinstance(found, Refused)
    assert found.code == "too_many_values"
    assert "10000" in found.text


@pytest.mark.parametrize("kind", ["string", "quotes", "text", "escapes", "deep", "names", "number"])
def test_megabytes_of_anything_are_read(kind: str) -> None:
    megabyte = {
        "string": b'"' + b"x" * 2**20 + b'"',
        "quotes": b'"' + b'\\"' * 2**19 + b'"',
        "text": '"{}"'.format("漢字é😀" * 2**17).encode(),
        "escapes": b'"' + b"\\u6f22" * 2**17 + b'"',
        "deep": b"[" * 2**18 + b"]" * 2**18,
        "names": b'{"' + b"n" * 2**20 + b'":1}',
        "number": b"9" * 2**20,
    }[kind]
    for size in (65536, 10_007):
        asked = read_request(cut(b'{"x":' + megabyte + b',"model":"m","stream":true}', size))
        assert isinstance(asked, Asked)
        assert asked.stream
