"""Lua for Envoy: a filter takes one script, so its modules are put into one."""

from importlib.resources import files

from gatehouse.envoy.message import Message, extension

_LUA = "envoy.extensions.filters.http.lua.v3.Lua"


def source(name: str) -> str:
    """The text of `lua/NAME.lua`."""
    return files("gatehouse.envoy").joinpath("lua", f"{name}.lua").read_text("utf-8")


def script(*modules: str, main: str) -> str:
    """`main`, with each of `modules` as a local of its name, in an order in which each needs only those before it."""
    parts = [f"local {name} = (function()\n{source(name)}end)()\n" for name in modules]
    return "".join(parts) + source(main)


def lua_filter(name: str, *modules: str, main: str) -> Message:
    """A filter that runs `script`."""
    return extension(name, _LUA, default_source_code={"inline_string": script(*modules, main=main)})
