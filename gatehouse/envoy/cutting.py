"""Ending the running streams of a revoked key: the Lua filter that looks whether a stream's key is among those."""

from pathlib import Path

from gatehouse.contract import names
from gatehouse.envoy.message import Message, extension
from gatehouse.envoy.scripts import source


def stream_filter(file: Path) -> Message:
    """The filter. `file` holds the ids of keys whose streams are to end, one a line; it need not exist."""
    code = source("cut").replace("@FILE@", str(file))
    lua = "envoy.extensions.filters.http.lua.v3.Lua"
    return extension(names.CUTTING, lua, default_source_code={"inline_string": code})
