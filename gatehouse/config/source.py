"""YAML text -> plain data that remembers the line of every value.

Stricter than YAML where that has cost people outages: duplicate keys are refused, and so is a document whose aliases
expand to more than it could hold if it were written out ("billion laughs").
"""

from dataclasses import dataclass, field
from typing import Any

import yaml

from gatehouse.config.problem import ConfigError, Problem

Path = tuple[str | int, ...]

MAX_NODES = 1_000_000


@dataclass(slots=True)
class Source:
    """A parsed document: its data, and the line (from 1) of each path in it."""

    origin: str
    data: Any = None
    lines: dict[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int | None:
        """The line of `path`, or of the closest thing around it that the document has."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return None


def parse(text: str, origin: str) -> Source:
    """Read one YAML document. Raises `ConfigError` with the line of what can't be read."""
    source = Source(origin)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        source.data = _Walk(loader, source).value(node, ()) if node is not None else None
    except yaml.YAMLError as error:
        raise ConfigError([_syntax_problem(origin, error)]) from None
    return source


class _Walk:
    """Turns YAML nodes into data, noting lines. Not `construct_object`: that would forget where things were."""

    def __init__(self, loader: yaml.SafeLoader, source: Source) -> None:
        self._loader = loader
        self._source = source
        self._nodes = 0
        self._open: set[int] = set()

    def value(self, node: yaml.Node, path: Path) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES or id(node) in self._open:
            raise self._fault(node, path, "aliases expand to more than a configuration can hold")
        self._source.lines[path] = node.start_mark.line + 1
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
            return self._scalar(node, path)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        self._loader.flatten_mapping(node)
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, path)
            if key in result:
                raise self._fault(key_node, path, "the same name stands here twice; keep one of the two")
            result[key] = self.value(value_node, (*path, key))
            self._source.lines[(*path, key)] = key_node.start_mark.line + 1
        return result

    def _key(self, node: yaml.Node, path: Path) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:str":
            raise self._fault(node, path, "a name must be text; put it in quotes")
        return str(node.value)

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        try:
            return self._loader.construct_object(node)
        except (ValueError, yaml.YAMLError):
            raise self._fault(node, path, "this value can't be read; put it in quotes if it is text") from None

    def _fault(self, node: yaml.Node, path: Path, message: str) -> ConfigError:
        line = node.start_mark.line + 1
        return ConfigError([Problem(self._source.origin, line, dotted(path), message)])


def dotted(path: Path) -> str:
    """`("models", "a", "backends", 0)` -> `models.a.backends[0]`. An API key in it is never shown."""
    shown = ""
    for index, part in enumerate(path):
        name = "<key>" if index == 1 and path[0] == "api_keys" else part
        shown += f"[{name}]" if isinstance(name, int) else f".{name}" if shown else name
    return shown


def _syntax_problem(origin: str, error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or getattr(error, "reason", "not YAML")
    return Problem(origin, mark.line + 1 if mark else None, "", f"not valid YAML: {reason}")
