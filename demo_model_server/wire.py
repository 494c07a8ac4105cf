"""JSON and server-sent events in vLLM's style: compact JSON in UTF-8, events that end in a blank line."""

import json
from typing import TypeAlias

Json: TypeAlias = dict[str, object]

DONE = b"data: [DONE]\n\n"


def encode(value: object) -> bytes:
    """JSON without spaces. A byte that is not UTF-8, which a header can bring in, becomes `?`."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def event(value: Json) -> bytes:
    """An event without a name, as the OpenAI completion APIs send them."""
    return b"data: " + encode(value) + b"\n\n"


def typed_event(value: Json) -> bytes:
    """An event named by the `type` in its data, as the Responses and Messages APIs send them."""
    return f"event: {value['type']}\n".encode() + event(value)
