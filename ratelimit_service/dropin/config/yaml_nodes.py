"""YAML text -> a tree of nodes, as Go's yaml.v2 reads it; by libyaml's parser, of which yaml.v2 is a translation.

It differs from PyYAML: `y` and `n` are flags, `0o10` is a number and 08 is none, a date is text, and the last of two
equal keys counts, one that `<<` merges in included.
"""

import base64
import binascii
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import yaml
from yaml._yaml import CParser

Kind = Literal["str", "int", "float", "bool", "null", "binary"]

_TAG = "tag:yaml.org,2002:"
_KINDS: frozenset[str] = frozenset({"str", "int", "float", "bool", "null"})
_MARKS = frozenset("+-0123456789yYnNtTfFoO~.")
_INTEGER = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_TRUE = ("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON")
_FALSE = ("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF")
_ENDLESS = (".inf", ".Inf", ".INF")
_WORDS: dict[str, tuple[Kind, Any]] = {
    **dict.fromkeys(_TRUE, ("bool", True)),
    **dict.fromkeys(_FALSE, ("bool", False)),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), ("null", None)),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), ("float", math.nan)),
    **dict.fromkeys((*_ENDLESS, *(f"+{word}" for word in _ENDLESS)), ("float", math.inf)),
    **dict.fromkeys((f"-{word}" for word in _ENDLESS), ("float", -math.inf)),
}


class Scalar:
    """`text` as written; `kind` and `value` are what it means. A string of any other tag is text."""

    __slots__ = ("kind", "line", "text", "value")

    def __init__(self, text: str, kind: Kind, value: Any, line: int) -> None:
        self.text, self.kind, self.value, self.line = text, kind, value, line


class Mapping:
    """`items` in the order of the file; `merges` if one of the keys is `<<`."""

    __slots__ = ("items", "line", "merges")
    kind = "map"

    def __init__(self, line: int) -> None:
        self.items: list[tuple[Node, Node]] = []
        self.merges = False
        self.line = line

    def pairs(self) -> "list[tuple[Node, Node]]":
        """The items, with what is merged in the place of each `<<`. Raises `ValueError` for a merge of no map."""
        return list(self._merged()) if self.merges else self.items

    def _merged(self) -> "Iterator[tuple[Node, Node]]":
        for key, value in self.items:
            if not _is_merge(key):
                yield key, value
                continue
            for one in reversed(value.items) if isinstance(value, Sequence) else (value,):
                if not isinstance(one, Mapping):
                    raise ValueError("yaml: map merge requires map or sequence of maps as the value")
                yield from one.pairs()


class Sequence:
    __slots__ = ("items", "line")
    kind = "seq"

    def __init__(self, line: int) -> None:
        self.items: list[Node] = []
        self.line = line


Node = Scalar | Mapping | Sequence
N = TypeVar("N", Scalar, Mapping, Sequence)


class _Merge(Scalar):
    """The key `<<`."""

    __slots__ = ()


def _is_merge(node: Node) -> bool:
    return type(node) is _Merge


def document(text: str | bytes) -> Node | None:
    """The first document; None if there is none. Later documents are ignored.

    Raises `yaml.YAMLError` for invalid YAML, and `ValueError` for what yaml.v2 also rejects: a recursive or unknown
    anchor, a text that does not match its tag, excessive expansion of aliases.
    """
    return _Document(CParser(text)).root()


class _Document:
    def __init__(self, parser: CParser) -> None:
        self._next: Callable[[], Any] = parser.get_event
        self._anchors: dict[str, Node] = {}
        self._open: list[Node] = []
        self._parsed = 0
        self._aliases = 0

    def root(self) -> Node | None:
        self._next()  # the stream begins
        if type(self._next()) is not yaml.DocumentStartEvent:
            return None
        root = self._node(self._next())
        self._next()  # the document ends
        if self._aliases:
            self._check_aliases(root)
        return root

    def _node(self, event: Any) -> Node:
        self._parsed += 1
        kind = type(event)
        if kind is yaml.ScalarEvent:
            return self._anchored(event, _scalar(event))
        if kind is yaml.MappingStartEvent:
            return self._mapping(event)
        if kind is yaml.SequenceStartEvent:
            return self._sequence(event)
        return self._alias(event)

    def _mapping(self, event: Any) -> Mapping:
        node = self._anchored(event, Mapping(event.start_mark.line + 1))
        self._open.append(node)
        items, step = node.items, self._next
        while type(event := step()) is not yaml.MappingEndEvent:
            key = self._node(event)
            items.append((key, self._node(step())))
            node.merges = node.merges or _is_merge(key)
        self._open.pop()
        return node

    def _sequence(self, event: Any) -> Sequence:
        node = self._anchored(event, Sequence(event.start_mark.line + 1))
        self._open.append(node)
        while type(event := self._next()) is not yaml.SequenceEndEvent:
            node.items.append(self._node(event))
        self._open.pop()
        return node

    def _anchored(self, event: Any, node: N) -> N:
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: Any) -> Node:
        self._aliases += 1
        node = self._anchors.get(event.anchor)
        if node is None:
            raise ValueError(f"yaml: unknown anchor '{event.anchor}' referenced")
        if any(node is one for one in self._open):
            raise ValueError(f"yaml: anchor '{event.anchor}' value contains itself")
        return node

    def _check_aliases(self, root: Node) -> None:
        """yaml.v2's guard against alias bombs: small files that expand to huge ones."""
        total = _expanded(root, {})
        aliased = total - self._parsed
        if aliased > 100 and total > 1000 and aliased / total > _allowed(total):
            raise ValueError("yaml: document contains excessive aliasing")


def _expanded(node: Node, known: dict[int, int]) -> int:
    """The number of nodes with every alias expanded."""
    if isinstance(node, Scalar):
        return 1
    size = known.get(id(node))
    if size is None:
        children = [n for pair in node.items for n in pair] if isinstance(node, Mapping) else node.items
        size = known[id(node)] = 1 + sum(_expanded(child, known) for child in children)
    return size


def _allowed(total: int) -> float:
    low, high = 400_000, 4_000_000
    return 0.99 - 0.89 * (min(max(total, low), high) - low) / (high - low)


def _scalar(event: Any) -> Scalar:
    text, tag, line = event.value, event.tag, event.start_mark.line + 1
    plain = event.implicit[0]
    if plain and text == "<<":
        return _Merge(text, "str", text, line)
    if tag is not None:
        return _tagged(text, tag, line)
    if not plain:
        return Scalar(text, "str", text, line)
    kind, value = meaning(text)
    return Scalar(text, kind, value, line)


def _tagged(text: str, tag: str, line: int) -> Scalar:
    wanted = tag.removeprefix(_TAG)
    if tag == wanted or wanted not in (*_KINDS, "merge", "timestamp"):
        return _binary(text, line) if wanted == "binary" else Scalar(text, "str", text, line)
    if wanted == "merge":
        return _Merge(text, "str", text, line) if text == "<<" else Scalar(text, "str", text, line)
    if wanted in ("str", "timestamp"):
        return Scalar(text, "str", text, line)
    kind, value = meaning(text)
    if kind != wanted and not (wanted == "float" and kind == "int"):
        raise ValueError(f"yaml: cannot decode !!{kind} `{text}` as a !!{wanted}")
    return Scalar(text, "float" if wanted == "float" else kind, value, line)


def _binary(text: str, line: int) -> Scalar:
    try:
        data = base64.b64decode("".join(text.split()), validate=True).decode("utf-8", "replace")
    except binascii.Error:
        raise ValueError("yaml: !!binary value contains invalid base64 data") from None
    return Scalar(data, "binary", data, line)


def meaning(text: str) -> tuple[Kind, Any]:
    """What a plain scalar stands for. Whole numbers are those of 64 bits; larger ones are fractions."""
    if text and text[0] not in _MARKS:
        return "str", text
    if (word := _WORDS.get(text)) is not None:
        return word
    if text[0] == ".":
        return ("float", float(text)) if _FLOAT.fullmatch(text) else ("str", text)
    if text[0] in "+-0123456789":
        return _number(text)
    return "str", text


def _number(text: str) -> tuple[Kind, Any]:
    digits = text.replace("_", "")
    if (number := integer(digits)) is not None:
        return ("int", number) if -(2**63) <= number < 2**63 else ("float", float(number))
    return ("float", float(digits)) if _FLOAT.fullmatch(digits) else ("str", text)


def integer(digits: str) -> int | None:
    """A number as Go writes it: 10, 0x1F, 0b11, 0o17 or 017; None for anything else."""
    if not _INTEGER.fullmatch(digits):
        return None
    sign, bare = (-1 if digits[0] == "-" else 1), digits.lstrip("+-")
    if len(bare) > 1 and bare[0] == "0" and bare[1].isdigit():
        bare = f"0o{bare[1:]}"
    return sign * int(bare, 0)
