"""Bodies of requests for tests of the reader: ordinary and adversarial ones, and what a model server reads in them."""

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="allow")
    include_usage: bool | None = True
    continuous_usage_stats: bool | None = False


class _Request(BaseModel):
    model_config = ConfigDict(extra="allow")
    model: str | None = None
    stream: bool | None = False


class Chat(_Request):
    """The types of vLLM's `ChatCompletionRequest`, for what the gateway reads."""

    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = 1
    stream_options: StreamOptions | None = None


class Completion(_Request):
    prompt: list[int] | list[list[int]] | str | list[str] | None = None
    max_tokens: int | None = 16
    n: int = 1
    stream_options: StreamOptions | None = None


class Responses(_Request):
    max_output_tokens: int | None = None
    background: bool | None = False


class Messages(_Request):
    max_tokens: int | None = None


DIALECTS: dict[str, type[_Request]] = {
    "/v1/chat/completions": Chat,
    "/v1/completions": Completion,
    "/v1/responses": Responses,
    "/v1/messages": Messages,
}


@dataclass(frozen=True)
class Read:
    """What a server takes a request for. `most` is None where the body does not say."""

    model: str | None
    stream: bool
    most: int | None
    choices: int
    final: bool
    running: bool


def as_server(body: bytes, path: str) -> Read | None:
    """What vLLM reads; None for what it refuses."""
    try:
        said = DIALECTS[path].model_validate(json.loads(body))
    except (ValueError, RecursionError, ValidationError):
        return None
    if (_most(said) or 0) < 0:
        return None
    options = _member(said, "stream_options")
    final = bool(options and options.include_usage)
    return Read(
        said.model,
        bool(said.stream),
        _most(said),
        _choices(said),
        final,
        final and bool(options and options.continuous_usage_stats),
    )


def _member(said: _Request, name: str) -> Any:
    """A member that the dialect knows; others are passed over."""
    return getattr(said, name) if name in type(said).model_fields else None


def _most(said: _Request) -> int | None:
    found = (_member(said, name) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"))
    return next((value for value in found if value is not None), 16 if isinstance(said, Completion) else None)


def _choices(said: _Request) -> int:
    n, prompt = _member(said, "n"), _member(said, "prompt")
    several = isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
    return max(1 if n is None else n, 1) * (len(prompt) if several else 1)


NAMES = (
    "model",
    "stream",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "stream_options",
    "prompt",
    "background",
    "messages",
    "temperature",
    "MODEL",
    "model ",
    "",
)

_ODD = (
    *("null", "true", "false", "0", "1", "-0", "1.0", "0.0", "1e0", "3000.0", "3e3", "3000.5", "-1", "1e400", "NaN"),
    *("1234567890123", "9" * 400, "01", "1.", ".5", "+1", "-", "1e", "truex", "nul", "Infinity", "-Infinity"),
    *('"true"', '"TRUE"', '"1"', '"on"', '"y"', '"no"', '"maybe"', '""', '" 7 "', '"3_000"', '"3__0"', '"_1"', '"1_"'),
    *('"3000.0"', '"3000.5"', '"+5"', '"-5"', '"0x10"', '"1e3"', '"m"', '"\\ud83d\\ude00"', '"\\ud800"', '"\\u006d"'),
    *('"\\n"', '"\\x"', '"\\u12"', '"\x01"', '"é"', '"data:image/png;base64,AAAA"', '"a\\\\"', '"\\""'),
    *(
        "[]",
        "[1,2]",
        '["a","b"]',
        "[[1],[2],[3]]",
        "{}",
        '{"a":[{}]}',
        "[[[[]]]]",
        '{"model":"x"}',
        "[1,]",
        '{"a"}',
        "[}",
    ),
    *('{"include_usage":true}', '{"include_usage":"yes","x":1}', '{"include_usage":false}', '{"include_usage":null}'),
    *('{"include_usage":true,"continuous_usage_stats":true}', '{"continuous_usage_stats":1,"include_usage":1}'),
)

_spaces = st.sampled_from(["", "", "", " ", "\n", "\t", "\r\n ", "\xa0", "\x0b"])


def _escaped(name: str) -> st.SearchStrategy[str]:
    plain = json.dumps(name)
    units = [json.dumps(c)[1:-1] for c in name]
    escapes = [f"\\u{ord(c):04x}" for c in name]
    once = ['"' + "".join([*units[:i], escape, *units[i + 1 :]]) + '"' for i, escape in enumerate(escapes)]
    return st.sampled_from([plain, plain, plain, *once])


_names = st.sampled_from(NAMES).flatmap(_escaped) | st.text(max_size=6).map(json.dumps)
_values = (
    st.sampled_from(_ODD)
    | st.integers(-5, 10**13).map(str)
    | st.text(max_size=20).map(lambda text: json.dumps(text, ensure_ascii=False))
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=12,
    ).map(json.dumps)
)


@st.composite
def _objects(draw: st.DrawFn) -> str:
    members = draw(st.lists(st.tuples(_names, _values, _spaces, _spaces), max_size=7))
    if draw(st.integers(0, 9)):
        members.insert(draw(st.integers(0, len(members))), ('"model"', '"m"', "", ""))
    return "{" + ",".join(f"{before}{name}{after}:{value}" for name, value, before, after in members) + "}"


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A body: mostly an object whose members are now and then odd; sometimes damaged."""
    text = draw(_spaces) + draw(_objects()) + draw(_spaces)
    body = text.encode("utf-8", "surrogatepass")
    match draw(st.integers(0, 30)):
        case 0:
            body = body[: draw(st.integers(0, len(body)))]
        case 1:
            at = draw(st.integers(0, len(body)))
            body = body[:at] + draw(st.binary(min_size=1, max_size=3)) + body[at:]
        case 2:
            body = b"\xef\xbb\xbf" + body
        case 3:
            body = text.encode(draw(st.sampled_from(["utf-16", "utf-16-le", "utf-32", "latin-1"])), "ignore")
        case 4:
            depth = draw(st.integers(100, 3000))
            body = b'{"model":"m","a":' + b"[" * depth + b"]" * depth + b"," + body[1:]
    return body
