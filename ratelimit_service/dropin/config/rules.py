"""The tree of rules built from the configuration files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from ratelimit_service.store.limits import Limit

WILDCARD = "*"


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What one rule allows. Without a `limit` it is unlimited.

    `unit` is upper case as in the protocol; `multiplier` is how many of them a period has (above 1 only in an override
    by the caller). `replaces` names the limits that this one puts aside in the same request.
    """

    limit: Limit | None
    unit: str = ""
    multiplier: int = 1
    name: str = ""
    replaces: tuple[str, ...] = ()
    shadow: bool = False
    quota: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rule:
    """One descriptor of the configuration. `composite` is its `key`, or `key_value`."""

    composite: str
    rate_limit: RateLimit | None
    level: "Level"
    detailed_metric: bool = False
    value_to_metric: bool = False
    share_threshold: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """The rules below one parent: by their composite, and those with wildcards in the order of the file."""

    rules: Mapping[str, Rule]
    wildcards: tuple[Rule, ...]

    def find(self, key: str, value: str) -> Rule | None:
        """The rule for an entry: the exact `key_value`, else the first wildcard that covers it, else the bare `key`."""
        composite = f"{key}_{value}"
        exact = self.rules.get(composite)
        if exact is not None:
            return exact
        for rule in self.wildcards:
            if covers(rule.composite, composite):
                return rule
        return self.rules.get(key)


_NOTHING_BELOW = Level(MappingProxyType({}), ())

Rules = Mapping[str, Level]
"""The rules of each domain."""


class Row(NamedTuple):
    """One rule without what is below it, or at depth 0 the name of a domain."""

    depth: int
    composite: str
    rate_limit: RateLimit | None = None
    detailed_metric: bool = False
    value_to_metric: bool = False
    share_threshold: bool = False


class Tree:
    """Builds rules from rows in post-order: each follows its children, which are one level deeper."""

    def __init__(self) -> None:
        self.rules: dict[str, Level] = {}
        self._open: list[dict[str, Rule]] = [{}]  # by depth

    def add(self, row: Row) -> None:
        level = self._below(row.depth)
        if row.depth == 0:
            self.rules[row.composite] = level
            return
        while len(self._open) <= row.depth:
            self._open.append({})
        self._open[row.depth][row.composite] = Rule(
            row.composite, row.rate_limit, level, row.detailed_metric, row.value_to_metric, row.share_threshold
        )

    def _below(self, depth: int) -> Level:
        if len(self._open) <= depth + 1:
            return _NOTHING_BELOW
        rules = self._open.pop()
        return Level(MappingProxyType(rules), tuple(rule for name, rule in rules.items() if WILDCARD in name))


def covers(pattern: str, text: str) -> bool:
    """Whether `text` is `pattern` with any text in place of each `*`. Takes linear time, whatever a caller sends."""
    first, *middle, last = pattern.split(WILDCARD)
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def dump(rules: Rules) -> Iterator[str]:
    """The lines of `/rlconfig`: `mongo.database_users: unit=MINUTE requests_per_unit=20, shadow_mode: false, …`."""
    for domain, level in rules.items():
        yield from _dump(domain, level)


def _dump(parent: str, level: Level) -> Iterator[str]:
    for rule in level.rules.values():
        path = f"{parent}.{rule.composite}"
        if rule.rate_limit is not None:
            yield f"{path}: {_described(rule.rate_limit)}"
        yield from _dump(path, rule.level)


def _described(rate_limit: RateLimit) -> str:
    limit = rate_limit.limit
    modes = f"shadow_mode: {_word(rate_limit.shadow)}, quota_mode: {_word(rate_limit.quota)}"
    if limit is None:
        return f"unlimited, {modes}"
    counted = "" if limit.algorithm == "fixed_window" else f" algorithm={limit.algorithm}"
    return f"unit={rate_limit.unit} requests_per_unit={limit.amount}{counted}, {modes}"


def _word(flag: bool) -> str:
    return "true" if flag else "false"
