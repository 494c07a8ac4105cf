"""YAML text -> plain data, event by event: no tree of nodes is built, and large sections need not be kept in memory.

Stricter than YAML where that prevents outages: duplicate keys are rejected, and so is a document whose aliases expand
to more values than a configuration could have ("billion laughs"). Line numbers are computed only on demand (`places`).
"""

import re
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import yaml

from gatehouse.config.places import Parser, Path, Places, locate, parser
from gatehouse.config.problem import ConfigError, Problem
from gatehouse.contract.failures import GatehouseError

MAX_NODES = 1_000_000
"""The most values that all aliases together may expand to."""

MAX_DEPTH = 100

Take = Callable[[str, Any], None]
"""Called with each entry of a mapping, name and value; the mapping is then empty in the document."""

_MERGE = "<<"  # https://yaml.org/type/merge.html
_TOO_MUCH = "aliases expand to more than a configuration can hold"
_UNREADABLE = "this value can't be read; put it in quotes if it is text"


@dataclass(slots=True)
class Source:
    """A parsed document: its data, and on demand the line (from 1) of each path in it."""

    origin: str
    text: str | bytes = field(default="", repr=False)
    data: Any = None

    def places(self, paths: Iterable[Path]) -> Places:
        """The lines of `paths`. Parses the text again, so ask for all at once."""
        return locate(self.text, paths)


def parse(text: str | bytes, origin: str, takers: Mapping[Path, Take] | None = None) -> Source:
    """Parse one YAML document. Raises `ConfigError` with the line that can't be parsed.

    The entries of a mapping whose path is in `takers` go to its taker instead of into the data.
    """
    try:
        return Source(origin, text, _Walk(parser(text), origin, takers or {}).document())
    except yaml.YAMLError as error:
        raise ConfigError([_syntax_problem(origin, error)]) from None


@dataclass(frozen=True, slots=True)
class _Anchored:
    """The value of an anchor, and how many values it contains."""

    value: Any
    nodes: int


class _Walk:
    """One document, from a parser's events. Not PyYAML's composer and constructor: nodes cost 5 KB a key."""

    def __init__(self, events: Parser, origin: str, takers: Mapping[Path, Take]) -> None:
        self._next = events.get_event
        self._origin = origin
        self._takers = takers
        self._anchored: dict[str, _Anchored | None] = {}
        self._nodes = 0
        self._from_aliases = 0

    def document(self) -> Any:
        """The data of the only document; None if there is none."""
        self._next()  # the start of the stream
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        data = self._value(self._next(), ())
        self._next()  # the end of the document
        after = self._next()
        if not isinstance(after, yaml.StreamEndEvent):
            raise self._fault(after, (), "only one document is allowed; remove what follows '---'")
        return data

    def _value(self, event: Any, path: Path) -> Any:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path)
        before, anchor = self._nodes, event.anchor
        self._nodes += 1
        if anchor is not None:
            self._anchored[anchor] = None  # until its end is reached
        value = self._inside(event, path)
        if anchor is not None:
            self._anchored[anchor] = _Anchored(value, self._nodes - before)
        return value

    def _inside(self, event: Any, path: Path) -> Any:
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        if len(path) >= MAX_DEPTH:
            raise self._fault(event, path, "is nested too deeply")
        return self._mapping(path) if isinstance(event, yaml.MappingStartEvent) else self._sequence(path)

    def _alias(self, event: Any, path: Path) -> Any:
        if event.anchor not in self._anchored:
            raise self._fault(event, path, f"there is no earlier anchor &{event.anchor}")
        anchored = self._anchored[event.anchor]
        self._from_aliases += anchored.nodes if anchored else 0
        if anchored is None or self._from_aliases > MAX_NODES:
            raise self._fault(event, path, _TOO_MUCH)
        self._nodes += anchored.nodes
        return anchored.value

    def _sequence(self, path: Path) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._value(event, (*path, len(items))))
        return items

    def _mapping(self, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        take = self._takers.get(path)
        while type(event := self._next()) is not yaml.MappingEndEvent:
            name = self._name(event, path)
            if name in result:
                raise self._fault(event, path, "this name is used twice here; keep one of the two")
            value = self._entry(self._next(), path, name)
            if name == _MERGE and event.implicit[0]:
                merged = self._merged(value, merged, event, path)
            elif take is None or (*path, name) in self._takers:
                result[name] = value
            else:
                result[name] = None  # remembered until the end, to find duplicates
                take(name, value)
        return self._with(merged, result, take)

    def _entry(self, event: Any, path: Path, name: str) -> Any:
        """The value of `name`. Most are plain scalars, for which no path is built."""
        if type(event) is yaml.ScalarEvent and event.anchor is None:
            self._nodes += 1
            return self._scalar(event, path, name)
        return self._value(event, (*path, name))

    def _merged(self, value: Any, so_far: dict[str, Any], event: Any, path: Path) -> dict[str, Any]:
        """If several merged mappings have the same name, the first one's value counts."""
        for mapping in value if isinstance(value, list) else [value]:
            if not isinstance(mapping, dict):
                raise self._fault(event, (*path, _MERGE), "must be a mapping, or a list of mappings")
            so_far = {**mapping, **so_far}
        return so_far

    @staticmethod
    def _with(merged: dict[str, Any], result: dict[str, Any], take: Take | None) -> dict[str, Any]:
        """A mapping's own entries override merged ones."""
        if take is None:
            return {**merged, **result} if merged else result
        for name, value in merged.items():
            if name not in result:
                take(name, value)
        return {name: value for name, value in result.items() if value is not None}

    def _name(self, event: Any, path: Path) -> str:
        if isinstance(event, yaml.AliasEvent):
            name = self._alias(event, path)
        elif isinstance(event, yaml.ScalarEvent):
            name = self._value(event, path) if event.value not in ("=", _MERGE) else event.value
        else:
            name = None
        if not isinstance(name, str):
            raise self._fault(event, path, "a name must be text; put it in quotes")
        return name

    def _scalar(self, event: Any, path: Path, *more: str) -> Any:
        try:
            if event.tag is None or event.tag == "!":
                return _plain(event.value) if event.implicit[0] else event.value
            return _constructed(event.tag, event.value)
        except _Unreadable as error:
            raise self._fault(event, (*path, *more), str(error) or _UNREADABLE) from None

    def _fault(self, event: Any, path: Path, message: str) -> ConfigError:
        shown = dotted(path, {*self._takers, API_KEYS})
        return ConfigError([Problem(self._origin, event.start_mark.line + 1, shown, message)])


class _Unreadable(GatehouseError):  # noqa: N818 - says what the value is
    """The text does not fit the type that YAML gives it."""


_RESOLVER = yaml.SafeLoader.yaml_implicit_resolvers
_FOR_ALL = _RESOLVER.get(None, [])
_STR = "tag:yaml.org,2002:str"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_TWO_READINGS = re.compile(r"[-+]?(0[0-9_]+(\.[0-9_]*)?|[0-9][0-9_]*(:[0-9_.]+)+)")
_ONE_READING = "some read this number in base 8 or 60: write it without leading zeros and colons, or quote what is text"
"""YAML 1.1 reads 010 as 8 and 1:30 as 90; YAML 1.2, and people, don't."""


def _plain(text: str) -> Any:
    """The value of an unquoted scalar: 8000 is a number, true a boolean, 2027-01-01 a date, most others text."""
    forms = _RESOLVER.get(text[:1])
    return text if forms is None and not _FOR_ALL else _resolved(text)


@lru_cache(maxsize=4096)
def _resolved(text: str) -> Any:
    for tag, form in (*_RESOLVER.get(text[:1], ()), *_FOR_ALL):
        if form.match(text):
            if tag in _NUMBERS and _TWO_READINGS.fullmatch(text):
                raise _Unreadable(_ONE_READING)
            return _constructed(tag, text)
    return text


def _constructed(tag: str, text: str) -> Any:
    if tag == _STR:
        return text
    try:
        return yaml.constructor.SafeConstructor().construct_document(yaml.ScalarNode(tag, text))
    except (ValueError, LookupError, ArithmeticError, AttributeError, yaml.YAMLError):
        raise _Unreadable from None


API_KEYS: Path = ("api_keys",)


def dotted(path: Path, keys_at: Container[Path] = (API_KEYS,)) -> str:
    """`("models", "a", "backends", 0)` -> `models.a.backends[0]`. API keys, names at `keys_at`, are never shown."""
    shown = ""
    for index, part in enumerate(path):
        secret = path[:index] in keys_at and path[: index + 1] not in keys_at
        name = "<key>" if secret else part
        shown += f"[{name}]" if isinstance(name, int) else f".{name}" if shown else name
    return shown


def _syntax_problem(origin: str, error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or getattr(error, "reason", "not YAML")
    return Problem(origin, mark.line + 1 if mark else None, "", f"not valid YAML: {reason}")
