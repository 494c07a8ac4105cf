"""What an answer has used: read by Envoy as it passes, out of JSON bodies and Server-Sent Events.

Counts become `input_tokens`, `output_tokens` and `cached_tokens` in the metadata namespace `llm`, whatever the server
calls them (`lua/usage.lua`); the last count of a stream holds. `produced` is what a stream has sent where it does not
count, `error` the code of an error within an answer of 200, and `first_event_ms` when something first came. Usage that
the client did not ask for is cut out of the events on their way (`lua/events.lua`).
"""

from gatehouse.contract import names
from gatehouse.envoy.message import Message
from gatehouse.envoy.scripts import lua_filter


def filter_() -> Message:
    """The Lua filter."""
    return lua_filter(names.ANSWERS, "json", "body", "usage", "events", main="on_response")
