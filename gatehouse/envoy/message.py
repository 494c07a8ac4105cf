"""Envoy's API in YAML: common messages."""

from typing import Any

Message = dict[str, Any]


def typed(type_name: str, /, **fields: Any) -> Message:
    """An `Any` of message `type_name`."""
    return {"@type": f"type.googleapis.com/{type_name}", **fields}


def extension(name: str, type_name: str, /, **fields: Any) -> Message:
    """A named extension: filters, access loggers, transport sockets, resource monitors."""
    return {"name": name, "typed_config": typed(type_name, **fields)}


def seconds(value: float) -> str:
    """A protobuf Duration."""
    return f"{value}s"


def header(name: str, value: str) -> Message:
    """A header to set, replacing existing ones. `value` may contain `%…%` command operators."""
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def literal(text: str) -> str:
    """`text`, escaped where `%` begins a command operator."""
    return text.replace("%", "%%")


def disabled() -> Message:
    """Disables a filter for a route."""
    return typed("envoy.config.route.v3.FilterConfig", disabled=True)
