"""Token counts, read by Envoy as the answer passes: the rules for JSON bodies and for SSE events.

Chat and completions speak of `prompt_tokens`/`completion_tokens`, responses and messages of `input_tokens`/
`output_tokens`; while streaming, responses nests them in `response` and messages in `message`. All become
`input_tokens`, `output_tokens` and `cached_tokens` in the `llm` namespace. The last count wins: a stream counts up.
Messages alone leaves what the cache served out of `input_tokens`; it is kept apart, for the record to add.
"""

from importlib.resources import files

from gatehouse.envoy import names
from gatehouse.envoy.message import Message, extension

MAX_EVENT_BYTES = 10 * 1024 * 1024
"""Larger events are not read. A `response.completed` event holds the whole answer; Envoy's default is 8 KiB."""

JSON_CONTENT = {"regex": r"(?i)application/json\s*(;.*)?"}

_COUNTS = (
    ("input_tokens", ("usage", "prompt_tokens")),
    ("output_tokens", ("usage", "completion_tokens")),
    ("cached_tokens", ("usage", "prompt_tokens_details", "cached_tokens")),
    ("input_tokens", ("usage", "input_tokens")),
    ("output_tokens", ("usage", "output_tokens")),
    ("cached_tokens", ("usage", "input_tokens_details", "cached_tokens")),
    ("cache_read_tokens", ("usage", "cache_read_input_tokens")),
    ("cache_written_tokens", ("usage", "cache_creation_input_tokens")),
)
_NESTED_COUNTS = tuple(
    (key, (outer, *path))
    for outer in ("response", "message")
    for key, path in _COUNTS
    if path[1] not in ("prompt_tokens", "completion_tokens", "prompt_tokens_details")
)


def _rule(key: str, path: tuple[str, ...]) -> Message:
    on_present = {"metadata_namespace": names.LLM, "key": key, "type": "NUMBER"}
    return {"selectors": [{"key": part} for part in path], "on_present": on_present}


def body_rules() -> Message:
    """Rules for an answer that is one JSON document."""
    return {"allow_content_types_regex": JSON_CONTENT, "rules": [_rule(*count) for count in _COUNTS]}


def event_filter() -> Message:
    """The filter that reads counts out of Server-Sent Events."""
    rules = [{"rule": _rule(*count)} for count in _COUNTS + _NESTED_COUNTS]
    parser = extension(
        "envoy.content_parsers.json", "envoy.extensions.content_parsers.json.v3.JsonContentParser", rules=rules
    )
    return extension(
        names.EVENTS,
        "envoy.extensions.filters.http.sse_to_metadata.v3.SseToMetadata",
        response_rules={"max_event_size": MAX_EVENT_BYTES, "content_parser": parser},
    )


def request_filter() -> Message:
    """The Lua filter that asks for counts on every stream, and hides what the client did not ask for.

    It stands further from the router than `event_filter`, so that on the way back the counts are read before they are
    hidden.
    """
    code = files("gatehouse.envoy").joinpath("usage.lua").read_text("utf-8")
    lua = "envoy.extensions.filters.http.lua.v3.Lua"
    return extension(names.USAGE_REQUEST, lua, default_source_code={"inline_string": code})
