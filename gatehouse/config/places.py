"""Finds the lines of values in a YAML text: a second pass over it, only made to report a problem.

Lines are recorded only along the requested paths and within anchors, so that one fault among 100,000 keys does not
cost memory for all of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import yaml

Path = tuple[str | int, ...]


class Parser(Protocol):
    """PyYAML's event parser: libyaml's, or the Python one if PyYAML was built without libyaml."""

    def get_event(self) -> Any: ...


def parser(text: str | bytes) -> Parser:
    """Raises `yaml.YAMLError` if it is not text; iterating over the events does if it is not YAML."""
    return cast(Parser, yaml.cyaml.CParser(text) if yaml.__with_libyaml__ else yaml.SafeLoader(text))  # type: ignore[attr-defined]


@dataclass(slots=True)
class Places:
    """The line of a value (from 1; None in an empty text), and the places of the requested values inside it."""

    line: int | None
    inside: "dict[str | int, Places]" = field(default_factory=dict)

    def of(self, path: Path) -> int | None:
        """The line of `path`, or of its closest ancestor in the document."""
        here = self
        for part in path:
            if part not in here.inside:
                break
            here = here.inside[part]
        return here.line


_Wanted = dict[Any, Any]
"""Names to look for, each with the names to look for inside."""


class _Everything(_Wanted):
    def __contains__(self, _name: object) -> bool:
        return True

    def get(self, _name: Any, _default: Any = None) -> "_Everything":
        return self


_ALL = _Everything()


def locate(text: str | bytes, paths: Iterable[Path]) -> Places:
    """The places of `paths` in `text`, which `source.parse` must have accepted."""
    wanted: _Wanted = {}
    for path in paths:
        here = wanted
        for part in path:
            here = here.setdefault(part, {})
    events = parser(text)
    events.get_event()  # the start of the stream
    if isinstance(events.get_event(), yaml.StreamEndEvent):
        return Places(None)
    return _Search(events).place(events.get_event(), wanted)


class _Search:
    def __init__(self, events: Parser) -> None:
        self._next = events.get_event
        self._anchored: dict[str, Places] = {}

    def place(self, event: Any, wanted: _Wanted) -> Places:
        kind: type = type(event)
        if kind is yaml.AliasEvent:
            return self._anchored[event.anchor]
        wanted = _ALL if event.anchor is not None else wanted
        found = Places(event.start_mark.line + 1)
        if kind is yaml.MappingStartEvent:
            self._mapping(found, wanted)
        elif kind is yaml.SequenceStartEvent:
            self._sequence(found, wanted)
        if event.anchor is not None:
            self._anchored[event.anchor] = found
        return found

    def _mapping(self, found: Places, wanted: _Wanted) -> None:
        merged: list[Places] = []
        while type(event := self._next()) is not yaml.MappingEndEvent:
            name: Any = getattr(event, "value", None)
            line = event.start_mark.line + 1
            if event.anchor is not None:
                self._anchored.setdefault(event.anchor, Places(line))
            merges = name == "<<" and event.implicit[0]
            value = self.place(self._next(), _ALL if merges else wanted.get(name, {}))
            if merges:
                merged += value.inside.values() if 0 in value.inside else [value]
            elif name is not None and name in wanted:
                found.inside[name] = Places(line, value.inside)
        for mapping in merged:
            found.inside = {**mapping.inside, **found.inside}

    def _sequence(self, found: Places, wanted: _Wanted) -> None:
        index = 0
        while type(event := self._next()) is not yaml.SequenceEndEvent:
            value = self.place(event, wanted.get(index, {}))
            if index in wanted:
                found.inside[index] = value
            index += 1
