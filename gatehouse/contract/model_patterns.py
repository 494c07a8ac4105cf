"""Patterns of model names: `*` matches any text, `?` any one character, everything else itself. Pure.

Envoy evaluates them as regular expressions (RE2) in CEL, where it rejects programs of more than 100 instructions
(`regex_max_program_size`); a longer one would deny every request. Hence `MAX_SIZE`.
"""

import re
from collections.abc import Callable, Collection, Iterable
from itertools import chain

EVERYTHING = "*"
MAX_SIZE = 96
_START, _WILDCARD, _END = 4, 8, 1
"""Upper bounds in RE2 instructions: for every expression, a wildcard (any UTF-8 character), the end of text."""

Matcher = Callable[[str], bool]


def is_everything(pattern: str) -> bool:
    """Whether `pattern` matches every name."""
    return pattern.strip("*") == "" != pattern


def is_wild(pattern: str) -> bool:
    """Whether `pattern` can match more than one name."""
    return "*" in pattern or "?" in pattern


def matcher(patterns: Iterable[str]) -> Matcher:
    """A function that tells whether a whole name matches any of `patterns`."""
    patterns = tuple(patterns)
    names = frozenset(pattern for pattern in patterns if not is_wild(pattern))
    wild = re.compile("|".join(map(_python, filter(is_wild, patterns))) or "(?!)", re.DOTALL)
    return lambda name: name in names or wild.fullmatch(name) is not None


def regex(patterns: Collection[str]) -> str:
    r"""An expression to search for in names; found if they match any of `patterns`: `^(?s:llama\-|gpt.*4$)`.

    RE2 and Python's `re.search` treat it alike. Sorted, so that RE2 can share common prefixes.
    """
    return f"^(?s:{'|'.join(map(_open_ended, sorted(patterns)))})"


def size(patterns: Collection[str]) -> int:
    """An upper bound of RE2's instructions for `regex(patterns)`. A common prefix counts once."""
    heads = [re.split(r"[*?]", pattern, maxsplit=1)[0].encode() for pattern in patterns]
    shared = set(chain.from_iterable((head[:end] for end in range(1, len(head) + 1)) for head in heads))
    return _START + len(shared) + sum(_size_of(p, len(h)) for p, h in zip(patterns, heads, strict=True))


def _size_of(pattern: str, head: int) -> int:
    """The same for the text after the first `head` bytes."""
    kept = pattern.rstrip("*")
    wildcards = sum(map(kept.count, "*?"))
    end = _END if kept == pattern else 0
    return len(kept.encode()) - head - wildcards + wildcards * _WILDCARD + end


def _python(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")


def _open_ended(pattern: str) -> str:
    return _python(pattern.rstrip("*")) if pattern.endswith("*") else f"{_python(pattern)}$"
