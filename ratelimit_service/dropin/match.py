"""A request's descriptors -> the limits that apply to them. Pure."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

from gatehouse.contract.failures import GatehouseError
from gatehouse.contract.periods import PERIODS
from ratelimit_service.dropin.config.rules import Level, RateLimit, Rule, Rules
from ratelimit_service.store.limits import Algorithm, Limit

_RESERVED = str.maketrans(":|", "__")
_IPV4 = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])")
_REMEMBERED = 4096  # names shared by many requests

MAX_LABEL = 200


class RequestError(GatehouseError):
    """An invalid request. The message says why."""


@dataclass(frozen=True, slots=True)
class Override:
    """A limit that the caller brings: `amount` per `multiplier` units."""

    amount: int
    unit: str
    multiplier: int = 1


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One descriptor of a request: (key, value) entries.

    `hits` is what it says of itself: a count, 0 to check only, None for the request's own. A `negative` one gives its
    hits back.
    """

    entries: tuple[tuple[str, str], ...]
    hits: int | None = None
    negative: bool = False
    override: Override | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """A limit that applies: `key` names what is counted together, `stat` is the path of its statistics."""

    rate_limit: RateLimit
    key: str
    stat: tuple[str, ...]


def matches(rules: Rules, domain: str, descriptors: Sequence[Descriptor]) -> list[Match | None]:
    """The limit of each descriptor; None where there is none, or where another one of the request replaces it.

    Raises `RequestError` for an override that is no limit.
    """
    level = rules.get(domain)
    found = [None if level is None else match(level, domain, descriptor) for descriptor in descriptors]
    replaced = {name for m in found if m is not None for name in m.rate_limit.replaces}
    return [None if m is not None and _gives_way(m.rate_limit, replaced) else m for m in found]


def _gives_way(rate_limit: RateLimit, replaced: set[str]) -> bool:
    return rate_limit.limit is not None and rate_limit.name in replaced


def match(level: Level, domain: str, descriptor: Descriptor) -> Match | None:
    """The limit at exactly the depth of the descriptor, or the one that it brings itself."""
    if descriptor.override is not None:
        return _overriding(domain, descriptor, descriptor.override)
    path = _path(level, descriptor)
    rate_limit = path[-1].rate_limit if path else None
    if rate_limit is None:
        return None
    steps = list(zip(path, descriptor.entries, strict=True))
    counted = [(rule.composite, None) if rule.share_threshold else entry for rule, entry in steps]
    stat = (domain, *_labels(path, descriptor.entries))
    return Match(rate_limit, _key(domain, counted), tuple(map(sanitised, stat)))


def _path(level: Level, descriptor: Descriptor) -> list[Rule]:
    """The rule of each entry; nothing if one of them has none."""
    path: list[Rule] = []
    for key, value in descriptor.entries:
        rule = level.find(key, value)
        if rule is None:
            return []
        path.append(rule)
        level = rule.level
    return path


def _labels(path: Sequence[Rule], entries: Sequence[tuple[str, str]]) -> Iterator[str]:
    """What the statistics call each level: the entry if values are wanted there, else the rule that covers it.

    An empty value leaves its `_` behind in a detailed metric, unless a level is shared, as it does there.
    """
    detailed = path[-1].detailed_metric
    bare = detailed and not any(rule.share_threshold for rule in path)
    for rule, (key, value) in zip(path, entries, strict=True):
        if rule.share_threshold or not (detailed or rule.value_to_metric):
            yield rule.composite
        else:
            yield f"{key}_{value}" if value or bare else key


def _overriding(domain: str, descriptor: Descriptor, override: Override) -> Match:
    period_s = PERIODS.get(override.unit.lower())
    if period_s is None:
        raise RequestError(f"invalid rate limit unit '{override.unit}' in the limit of a descriptor")
    stat = (domain, *(f"{key}_{value}" if value else key for key, value in descriptor.entries))
    try:
        limit = Limit(".".join(stat), override.amount, period_s * override.multiplier, Algorithm.FIXED_WINDOW)
    except ValueError as error:
        raise RequestError(str(error)) from None
    rate_limit = RateLimit(limit, unit=override.unit, multiplier=override.multiplier)
    return Match(rate_limit, _key(domain, descriptor.entries), tuple(map(sanitised, stat)))


def _key(domain: str, parts: Sequence[tuple[str, str | None]]) -> str:
    """Joins parts into a unique key: separators inside a part are escaped. None marks a pattern."""
    return "|".join([_escaped(domain), *map(_part, parts)])


def _part(part: tuple[str, str | None]) -> str:
    key, value = part
    return f"{_escaped(key)}~" if value is None else f"{_escaped(key)}={quote(value, safe='')}"


@lru_cache(_REMEMBERED)
def _escaped(name: str) -> str:
    return quote(name, safe="")


def sanitised(label: str) -> str:
    """A label as envoyproxy/ratelimit writes it in statistics: no `:` or `|`, no dots in IPv4 addresses.

    Truncated to `MAX_LABEL` characters: callers may send values of any length.
    """
    return _sanitised(label[:MAX_LABEL])


@lru_cache(_REMEMBERED)
def _sanitised(label: str) -> str:
    return _IPV4.sub(lambda found: found[0].replace(".", "_"), label.translate(_RESERVED))
