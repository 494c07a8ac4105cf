"""envoyproxy/ratelimit's configuration files -> the tree of rules. Pure: the caller reads the files.

Files that it refuses are refused for the same reasons. A `rate_limit` may say more here: `algorithm`
(`fixed_window` unless given, as there; `sliding_window`, `token_bucket`) and, for a token bucket, `burst`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ratelimit_service.dropin.rules import WILDCARD, Level, RateLimit, Rule, Rules
from ratelimit_service.dropin.yaml_file import ConfigError, Fields, parse
from ratelimit_service.limits import PERIODS, Algorithm, Limit

__all__ = ["ConfigError", "load"]


@dataclass(frozen=True, slots=True)
class _Domain:
    name: str
    files: list[Fields]


def load(files: Iterable[tuple[str, str]], *, merge_domains: bool = False) -> Rules:
    """The rules of (name, text) files. Raises `ConfigError`, whose message begins with the name of the file.

    A domain stands in one file only, unless `merge_domains` lets several add to it.
    """
    domains = _domains([parse(name, text) for name, text in files], merge_domains)
    return MappingProxyType({d.name: _level(d.name, _descriptors(d.files)) for d in domains})


def _domains(roots: Iterable[Fields], merge: bool) -> Iterable[_Domain]:
    domains: dict[str, _Domain] = {}
    for root in roots:
        name = root.text("domain")
        if not name:
            raise root.error("config file cannot have empty domain")
        if name in domains and not merge:
            raise root.error(f"duplicate domain '{name}' in config file")
        domains.setdefault(name, _Domain(name, [])).files.append(root)
    return domains.values()


def _descriptors(roots: Iterable[Fields]) -> Iterator[Fields]:
    for root in roots:
        yield from root.maps("descriptors")


def _level(parent: str, descriptors: Iterable[Fields]) -> Level:
    rules: dict[str, Rule] = {}
    for descriptor in descriptors:
        composite = _composite(descriptor)
        path = f"{parent}.{composite}"
        if composite in rules:
            raise descriptor.error(f"duplicate descriptor composite key '{path}'")
        rules[composite] = _rule(path, composite, descriptor)
    return Level(MappingProxyType(rules), tuple(rule for name, rule in rules.items() if WILDCARD in name))


def _composite(descriptor: Fields) -> str:
    key, value = descriptor.text("key"), descriptor.text("value")
    if not key:
        raise descriptor.error("descriptor has empty key")
    return f"{key}_{value}" if value else key


def _rule(path: str, composite: str, descriptor: Fields) -> Rule:
    share = descriptor.flag("share_threshold")
    if share and WILDCARD not in composite:
        raise descriptor.error(
            f"share_threshold can only be used with wildcard values (containing '*'): '{path}' has none"
        )
    rate_limit = descriptor.map("rate_limit")
    return Rule(
        composite,
        None if rate_limit is None else _rate_limit(path, rate_limit, descriptor),
        _level(path, descriptor.maps("descriptors")),
        detailed_metric=descriptor.flag("detailed_metric"),
        value_to_metric=descriptor.flag("value_to_metric"),
        share_threshold=share,
    )


def _rate_limit(path: str, fields: Fields, descriptor: Fields) -> RateLimit:
    name = fields.text("name")
    limit = _limit(name or path, fields)
    return RateLimit(
        limit,
        unit="" if limit is None else fields.text("unit").upper(),
        name=name,
        replaces=_replaces(name, fields),
        shadow=descriptor.flag("shadow_mode"),
        quota=descriptor.flag("quota_mode"),
        metadata=_metadata(descriptor),
    )


def _limit(name: str, fields: Fields) -> Limit | None:
    unit = fields.text("unit")
    period_s = PERIODS.get(unit.lower())
    if fields.flag("unlimited"):
        if period_s is not None:
            raise fields.error("should not specify rate limit unit when unlimited")
        return None
    if period_s is None:
        raise fields.error(f"invalid rate limit unit '{unit}'")
    burst = fields.uint32("burst") if "burst" in fields else None
    try:
        return Limit(name, fields.uint32("requests_per_unit"), period_s, _algorithm(fields), burst)
    except ValueError as error:
        raise fields.error(str(error)) from None


def _algorithm(fields: Fields) -> Algorithm:
    name = fields.text("algorithm") or Algorithm.FIXED_WINDOW
    try:
        return Algorithm(name)
    except ValueError:
        raise fields.error(f"invalid algorithm '{name}': use one of {', '.join(Algorithm)}") from None


def _replaces(name: str, fields: Fields) -> tuple[str, ...]:
    names = tuple(entry.text("name") for entry in fields.maps("replaces"))
    if "" in names:
        raise fields.error("should not have an empty replaces entry")
    if name in names:
        raise fields.error("replaces should not contain name of same descriptor")
    return names


def _metadata(descriptor: Fields) -> Mapping[str, object]:
    return MappingProxyType(descriptor.plain("metadata"))
