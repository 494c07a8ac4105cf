"""One configuration file: YAML text -> checked, typed records.

Reads what Go's yaml.v2 reads: the first document only, plain scalars such as `404` or `yes` as text where text is
wanted, and null for what is absent.
"""

import json
from collections.abc import Iterator
from typing import Any

import yaml

_ROOT = ("domain", "descriptors")
_DESCRIPTOR = ("key", "value", "rate_limit", "shadow_mode", "quota_mode", "metadata")
_METRIC = ("detailed_metric", "value_to_metric", "share_threshold")
_RATE_LIMIT = ("unit", "requests_per_unit", "unlimited", "name", "replaces")
_OURS = ("algorithm", "burst")
_KEYS = frozenset((*_ROOT, *_DESCRIPTOR, *_METRIC, *_RATE_LIMIT, *_OURS))
_TAG = "tag:yaml.org,2002:"
_LEAVES = frozenset({"str", "int", "bool", "null", "timestamp"})
_MAX_UINT32 = 2**32 - 1


class ConfigError(Exception):
    """A configuration that can't be used. The message begins with the name of the file."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")


class Fields:
    """A map of the file, whose fields are read by the type they should have.

    A field that is absent or null is empty: "", 0, False, or no items. One of another type raises `ConfigError`.
    """

    def __init__(self, file: str, node: yaml.MappingNode) -> None:
        self.file = file
        self._nodes = {key.value: value for key, value in node.value if _kind(value) != "null"}

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def text(self, name: str) -> str:
        node = self._nodes.get(name)
        return "" if node is None else str(self._scalar(node, "string").value)

    def flag(self, name: str) -> bool:
        node = self._nodes.get(name)
        return False if node is None else bool(self._typed(node, "bool"))

    def uint32(self, name: str) -> int:
        node = self._nodes.get(name)
        if node is None:
            return 0
        number: int = self._typed(node, "int", "uint32")
        if not 0 <= number <= _MAX_UINT32:
            raise self._mismatch(node, "uint32")
        return number

    def map(self, name: str) -> "Fields | None":
        node = self._nodes.get(name)
        return None if node is None else Fields(self.file, self._mapping(node))

    def maps(self, name: str) -> "Iterator[Fields]":
        node = self._nodes.get(name)
        if node is None:
            return
        if not isinstance(node, yaml.SequenceNode):
            raise self._mismatch(node, "list")
        for item in node.value:
            yield Fields(self.file, self._mapping(item))

    def plain(self, name: str) -> dict[str, Any]:
        """A free map, as JSON has it."""
        node = self._nodes.get(name)
        if node is None:
            return {}
        try:
            value: dict[str, Any] = json.loads(json.dumps(_Loader("").construct_document(self._mapping(node))))
        except (TypeError, ValueError) as error:
            raise self.error(f"{name} has values that JSON does not know: {error}") from None
        return value

    def error(self, reason: str) -> ConfigError:
        return ConfigError(self.file, reason)

    def _typed(self, node: yaml.Node, kind: str, wanted: str = "") -> Any:
        if _kind(self._scalar(node, wanted or kind)) != kind:
            raise self._mismatch(node, wanted or kind)
        return _Loader("").construct_document(node)

    def _scalar(self, node: yaml.Node, wanted: str) -> yaml.ScalarNode:
        if not isinstance(node, yaml.ScalarNode):
            raise self._mismatch(node, wanted)
        return node

    def _mapping(self, node: yaml.Node) -> yaml.MappingNode:
        if not isinstance(node, yaml.MappingNode):
            raise self._mismatch(node, "map")
        return node

    def _mismatch(self, node: yaml.Node, wanted: str) -> ConfigError:
        return self.error(f"error loading config file: {_mismatch(node, wanted)}")


class _Loader(yaml.SafeLoader):
    """Text for a date, as yaml.v2 has it."""


_Loader.add_constructor(f"{_TAG}timestamp", lambda _loader, node: node.value)


def parse(file: str, text: str) -> Fields:
    """The root of a file. Raises `ConfigError` for what is no YAML, and for keys and types that have no place in it."""
    try:
        loader = _Loader(text)
        node = loader.get_node() if loader.check_node() else None
        root = _root(node)
        _flatten(loader, root)
        _check(file, root)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(file, f"error loading config file: {error}") from None
    except RecursionError:
        raise ConfigError(file, "error loading config file: yaml: an anchor contains itself") from None
    return Fields(file, root)


def _root(node: yaml.Node | None) -> yaml.MappingNode:
    if node is None or _kind(node) == "null":
        return yaml.MappingNode(f"{_TAG}map", [])
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(_mismatch(node, "map"))
    return node


def _mismatch(node: yaml.Node, wanted: str) -> str:
    value = f" `{node.value[:40]}`" if isinstance(node, yaml.ScalarNode) else ""
    line = node.start_mark.line + 1
    return f"yaml: unmarshal errors:\n  line {line}: cannot unmarshal !!{_kind(node)}{value} into {wanted}"


def _flatten(loader: yaml.SafeLoader, node: yaml.Node) -> None:
    """Put what `<<` merges into the maps that say so."""
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        for _, value in node.value:
            _flatten(loader, value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _flatten(loader, item)


def _check(file: str, node: yaml.MappingNode) -> None:
    for key, value in node.value:
        if _kind(key) != "str":
            raise ConfigError(file, f"config error, key is not of type string: {key.value}")
        if key.value not in _KEYS:
            raise ConfigError(file, f"config error, unknown key '{key.value}'")
        if key.value != "metadata":
            _check_value(file, value)


def _check_value(file: str, node: yaml.Node) -> None:
    if isinstance(node, yaml.MappingNode):
        _check(file, node)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            if not isinstance(item, yaml.MappingNode):
                raise ConfigError(file, f"config error, yaml file contains list of type other than map: {item.value}")
            _check(file, item)
    elif _kind(node) not in _LEAVES:
        raise ConfigError(file, f"error checking config: line {node.start_mark.line + 1}: a {_kind(node)} has no place")


def _kind(node: yaml.Node) -> str:
    return str(node.tag).removeprefix(_TAG)
