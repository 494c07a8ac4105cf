"""One configuration file: YAML text -> a checked, typed record.

Two steps, as in envoyproxy/ratelimit: first check every key and value, wherever it stands; then parse the fields that
are valid in their place by their types.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from gatehouse.contract.failures import GatehouseError
from ratelimit_service.dropin.config.yaml_nodes import Mapping as MapNode
from ratelimit_service.dropin.config.yaml_nodes import Node, Scalar, Sequence, document

_MAX_UINT32 = 2**32 - 1

Record = dict[str, Any]
"""Fields by name. A field that is missing or null in the file is missing here, or empty."""


class ConfigError(GatehouseError):
    """A configuration that can't be used. The message begins with the name of the file."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(file, reason)

    def __str__(self) -> str:
        return ": ".join(self.args)


def parse(file: str, text: str | bytes) -> Record:
    """The root of a file. Raises `ConfigError` for invalid YAML, and for unexpected keys and types."""
    try:
        root = document(text)
        if root is None or root.kind == "null":
            return {}
        reader = _Reader()
        if isinstance(root, MapNode):
            _check(file, root)
        record = reader.read(root, _FILE)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(file, f"error loading config file: {error}") from None
    except RecursionError:
        raise ConfigError(file, "error loading config file: nested too deeply") from None
    if reader.mismatches:
        lines = "\n  ".join(reader.mismatches)
        raise ConfigError(file, f"error loading config file: yaml: unmarshal errors:\n  {lines}")
    return record


def _check(file: str, node: MapNode) -> None:
    values: dict[str, Node] = {}
    for key, value in node.pairs():
        if not isinstance(key, Scalar):
            raise ValueError("yaml: invalid map key")
        if key.kind not in ("str", "binary"):
            raise ConfigError(file, f"config error, key is not of type string: {key.text}")
        values[key.text] = value
    for name, value in values.items():
        if name not in _KEYS:
            raise ConfigError(file, f"config error, unknown key '{name}'")
        if name != "metadata":
            _check_value(file, value)


def _check_value(file: str, node: Node) -> None:
    if isinstance(node, Scalar):
        if node.kind == "float":
            raise ConfigError(file, f"error checking config: line {node.line}: a float has no place")
    elif isinstance(node, MapNode):
        _check(file, node)
    else:
        for item in node.items:
            if not isinstance(item, MapNode):
                raise ConfigError(file, f"config error, yaml file contains list of type other than map: {_shown(item)}")
            _check(file, item)


class _Reader:
    """Parses fields by their types, and collects the errors."""

    def __init__(self) -> None:
        self.mismatches: list[str] = []

    def read(self, node: Node, schema: "_Schema", into: Record | None = None) -> Record:
        """A map's fields. The last of duplicate fields wins; duplicate maps are merged."""
        record: Record = {} if into is None else into
        if not isinstance(node, MapNode):
            self._mismatch(node, "map")
            return record
        for key, value in node.pairs():
            assert isinstance(key, Scalar)
            field = schema.get(key.text)
            if field is not None:
                field(self, record, key.text, value)
        return record

    def text(self, record: Record, name: str, node: Node) -> None:
        if isinstance(node, Scalar):
            record[name] = "" if node.kind == "null" else node.text
        else:
            self._mismatch(node, "string")

    def flag(self, record: Record, name: str, node: Node) -> None:
        if node.kind in ("bool", "null"):
            record[name] = bool(node.value)  # type: ignore[union-attr] # these kinds are scalars
        else:
            self._mismatch(node, "bool")

    def uint32(self, record: Record, name: str, node: Node) -> None:
        if node.kind == "null":
            record.pop(name, None)
        elif isinstance(node, Scalar) and node.kind in ("int", "float") and -1 < node.value <= _MAX_UINT32:
            record[name] = int(node.value)  # a fraction comes here only where a later field of that name hides it
        else:
            self._mismatch(node, "uint32")

    def free(self, record: Record, name: str, node: Node) -> None:
        """A free map, as JSON has it."""
        if node.kind == "null":
            record.pop(name, None)
        elif isinstance(node, MapNode):
            record[name] = _plain(node)
        else:
            self._mismatch(node, "map")

    def rate_limit(self, record: Record, name: str, node: Node) -> None:
        """`Null` and `NULL` are an empty limit; other spellings of null are no limit, as in yaml.v2."""
        if node.kind != "null":
            record[name] = self.read(node, _LIMIT, record.get(name))
        elif isinstance(node, Scalar) and node.text in ("Null", "NULL"):
            record[name] = {}
        else:
            record.pop(name, None)

    def descriptors(self, record: Record, name: str, node: Node) -> None:
        self._list(record, name, node, _RULE)

    def replaces(self, record: Record, name: str, node: Node) -> None:
        self._list(record, name, node, _REPLACED)

    def _list(self, record: Record, name: str, node: Node, schema: "_Schema") -> None:
        if node.kind == "null":
            record.pop(name, None)
        elif isinstance(node, Sequence):
            record[name] = [self.read(item, schema) for item in node.items]
        else:
            self._mismatch(node, "list")

    def _mismatch(self, node: Node, wanted: str) -> None:
        value = f" `{node.text[:40]}`" if isinstance(node, Scalar) else ""
        self.mismatches.append(f"line {node.line}: cannot unmarshal !!{node.kind}{value} into {wanted}")


_Field = Callable[[_Reader, Record, str, Node], None]
_Schema = Mapping[str, _Field]

_REPLACED: _Schema = {"name": _Reader.text}
_LIMIT: _Schema = {
    "unit": _Reader.text,
    "requests_per_unit": _Reader.uint32,
    "unlimited": _Reader.flag,
    "name": _Reader.text,
    "replaces": _Reader.replaces,
    "algorithm": _Reader.text,
    "burst": _Reader.uint32,
}
_RULE: _Schema = {
    "key": _Reader.text,
    "value": _Reader.text,
    "rate_limit": _Reader.rate_limit,
    "descriptors": _Reader.descriptors,
    "metadata": _Reader.free,
    **dict.fromkeys(
        ("shadow_mode", "quota_mode", "detailed_metric", "value_to_metric", "share_threshold"), _Reader.flag
    ),
}
_FILE: _Schema = {"domain": _Reader.text, "descriptors": _Reader.descriptors}
_KEYS = frozenset((*_FILE, *_RULE, *_LIMIT))


def _plain(node: Node) -> Any:
    """Raises `ValueError` for values that JSON lacks."""
    if isinstance(node, MapNode):
        return {_name(key): _plain(value) for key, value in node.pairs()}
    if isinstance(node, Sequence):
        return [_plain(item) for item in node.items]
    if node.kind == "binary" or (node.kind == "float" and not math.isfinite(node.value)):
        raise ValueError(f"metadata has values that JSON does not know: line {node.line}: `{node.text[:40]}`")
    return node.value


def _name(key: Node) -> str:
    if isinstance(key, Scalar):
        return key.text
    raise ValueError(f"metadata has values that JSON does not know: line {key.line}: a key that is a {key.kind}")


def _shown(node: Node) -> str:
    return node.text if isinstance(node, Scalar) else f"a {node.kind}"
