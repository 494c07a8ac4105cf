"""What a request asks for: read by Envoy as the body comes in, once, and written there too.

A Lua filter reads the members at the top of the body as chunks pass (`lua/json.lua`, `lua/request.lua`), and changes
the few bytes that have to change (`lua/body.lua`); Envoy's buffer filter behind it keeps the body until all of it is
here. So no tree of the body is ever built, and a large one takes Envoy's time in small turns.

The outcome is metadata: `model`, `asks`, `stream` and what is to be hidden of the answer, or why the request is
`refused`. What the configuration has to say comes from the route that is in effect while a body is read, so that
changing it leaves the listener alone.
"""

from gatehouse.config.model import Config, Kind, Model
from gatehouse.contract import names
from gatehouse.envoy.message import Message, extension
from gatehouse.envoy.scripts import lua_filter

_ROOM_TO_WRITE = 64 * 1024
"""Bytes that may be added to the largest body."""

ASKED: dict[Kind, tuple[str, ...]] = {
    "vllm": ("include_usage", "continuous_usage_stats"),
    "sglang": ("include_usage", "continuous_usage_stats"),
    "openai": ("include_usage",),
    "tgi": ("include_usage",),
    "llama_cpp": ("include_usage",),
    "other": (),
}
"""Which `stream_options` a kind of server knows. Of one that is not asked for more, streams count by their events."""


def filters(max_body_bytes: int) -> list[Message]:
    """The reader, and the filter that keeps what it passes on."""
    buffer = "envoy.extensions.filters.http.buffer.v3.Buffer"
    return [
        lua_filter(names.READER, "json", "body", "request", main="on_request"),
        extension(names.WHOLE_BODY, buffer, max_request_bytes=max_body_bytes + _ROOM_TO_WRITE),
    ]


def settings(config: Config) -> Message:
    """Metadata of the route under which bodies are read; names of models are as bodies give them."""
    said: Message = {"max_json_values": config.server.max_json_values}
    if config.effective_default_model is not None:
        said["default_model"] = config.effective_default_model
    if config.vllm is not None and config.vllm.kind != "vllm":
        said["asks"] = list(ASKED[config.vllm.kind])
    for name, model in config.models.items():
        asked = asked_of(model)
        if asked != ASKED["vllm"]:
            said |= {f"asks:{each}": list(asked) for each in (name, *model.aliases)}
    return {"filter_metadata": {names.READER: said}}


def asked_of(model: Model) -> tuple[str, ...]:
    """What every one of a model's servers may be asked for."""
    kinds = {backend.kind for backend in model.backends}
    return tuple(option for option in ASKED["vllm"] if all(option in ASKED[kind] for kind in kinds))
