"""Lua for Envoy: a filter takes one script, so its modules are joined into one."""

from importlib.resources import files

from gatehouse.envoy.message import Message, extension

_LUA = "envoy.extensions.filters.http.lua.v3.Lua"


def source(name: str) -> str:
    """The text of `lua/NAME.lua`."""
    return files("gatehouse.envoy").joinpath("lua", f"{name}.lua").read_text("utf-8")


def modules(*names: str) -> str:
    """Each `lua/NAME.lua` as a local of its name. `names` are ordered so that each needs only those before it."""
    return "".join(f"local {name} = (function()\n{source(name)}end)()\n" for name in names)


def lua_filter(name: str, *needs: str, main: str) -> Message:
    """A filter that runs `lua/MAIN.lua` with the modules it needs."""
    return extension(name, _LUA, default_source_code={"inline_string": modules(*needs) + source(main)})
