"""Reads the token usage of an answer, in Envoy, as its JSON body or Server-Sent Events pass through.

Counts become `input_tokens`, `output_tokens` and `cached_tokens` in the metadata namespace `llm`, whatever the server
calls them (`lua/usage.lua`); in a stream, a later count replaces an earlier one, unless `input_tokens` would fall.
`produced` is the number of output tokens estimated from the events of a stream that has not sent counts yet, `error`
the code of an error within an answer of 200, and `first_event_ms` the time of the first output. Usage that the client
did not ask for is cut out of the events (`lua/events.lua`).
"""

from gatehouse.contract import names
from gatehouse.envoy.message import Message
from gatehouse.envoy.scripts import lua_filter


def filter_() -> Message:
    """The Lua filter."""
    return lua_filter(names.ANSWERS, "json", "body", "usage", "events", main="on_response")
