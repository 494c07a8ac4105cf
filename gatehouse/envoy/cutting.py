"""Ends the running streams of revoked keys, by a Lua filter."""

from pathlib import Path

from gatehouse.contract import names
from gatehouse.envoy.message import Message, extension
from gatehouse.envoy.scripts import source


def stream_filter(file: Path) -> Message:
    """The filter. `file` has the ids of keys whose streams must end, one per line; it need not exist."""
    code = source("cut").replace("@FILE@", str(file))
    lua = "envoy.extensions.filters.http.lua.v3.Lua"
    return extension(names.CUTTING, lua, default_source_code={"inline_string": code})
