"""Reads and edits the body of a request in Envoy, once, as it arrives.

A Lua filter reads the members at the top of the body as chunks pass (`lua/json.lua`, `lua/request.lua`), and changes
the few bytes that have to change (`lua/body.lua`); Envoy's buffer filter after it holds the body until it is complete.
So no tree of the body is ever built, and a large one takes Envoy's time in small slices.

The result is metadata: `model`, `asks`, `stream` and what to hide of the answer, or why the request is `refused`.
Settings come from the route that is in effect while a body is read, so that changing them does not touch the listener.
"""

from gatehouse.config.model import Config, Kind, Model
from gatehouse.contract import names
from gatehouse.envoy.message import Message, extension
from gatehouse.envoy.scripts import lua_filter

_ROOM_TO_WRITE = 64 * 1024
"""Bytes that may be added to the largest body."""

STREAM_OPTIONS: dict[Kind, tuple[str, ...]] = {
    "vllm": ("include_usage", "continuous_usage_stats"),
    "sglang": ("include_usage", "continuous_usage_stats"),
    "openai": ("include_usage",),
    "tgi": ("include_usage",),
    "llama_cpp": ("include_usage",),
    "other": (),
}
"""The `stream_options` that a kind of server supports. Where it supports none, streams are counted by their events."""


def filters(max_body_bytes: int) -> list[Message]:
    """The reader, and the filter that buffers what it passes on."""
    buffer = "envoy.extensions.filters.http.buffer.v3.Buffer"
    return [
        lua_filter(names.READER, "json", "body", "request", main="on_request"),
        extension(names.WHOLE_BODY, buffer, max_request_bytes=max_body_bytes + _ROOM_TO_WRITE),
    ]


def settings(config: Config) -> Message:
    """Metadata of the route under which bodies are read; models have the names that bodies use."""
    values: Message = {"max_json_values": config.server.max_json_values}
    if config.effective_default_model is not None:
        values["default_model"] = config.effective_default_model
    if config.vllm is not None and config.vllm.kind != "vllm":
        values["asks"] = list(STREAM_OPTIONS[config.vllm.kind])
    for name, model in config.models.items():
        asked = _stream_options_of(model)
        if asked != STREAM_OPTIONS["vllm"]:
            values |= {f"asks:{each}": list(asked) for each in (name, *model.aliases)}
    return {"filter_metadata": {names.READER: values}}


def _stream_options_of(model: Model) -> tuple[str, ...]:
    """The `stream_options` that all servers of a model support."""
    kinds = {backend.kind for backend in model.backends}
    return tuple(option for option in STREAM_OPTIONS["vllm"] if all(option in STREAM_OPTIONS[kind] for kind in kinds))
