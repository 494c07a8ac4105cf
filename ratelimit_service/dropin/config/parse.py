"""envoyproxy/ratelimit's configuration files -> the tree of rules. Pure: the caller reads the files.

Files that it refuses are refused for the same reasons. A `rate_limit` may say more here: `algorithm`
(`fixed_window` unless given, as there; `sliding_window`, `token_bucket`) and, for a token bucket, `burst`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from gatehouse.contract.periods import PERIODS
from ratelimit_service.dropin.config.rules import WILDCARD, RateLimit, Row, Rules, Tree
from ratelimit_service.dropin.config.yaml_file import ConfigError, Record, parse
from ratelimit_service.store.limits import Algorithm, Limit

__all__ = ["ConfigError", "load", "rows"]


def load(files: Iterable[tuple[str, str | bytes]], *, merge_domains: bool = False) -> Rules:
    """The rules of (name, text) files. Raises `ConfigError`, whose message begins with the name of the file.

    A domain stands in one file only, unless `merge_domains` lets several add to it.
    """
    tree = Tree()
    for row in rows(files, merge_domains=merge_domains):
        tree.add(row)
    return tree.rules


def rows(files: Iterable[tuple[str, str | bytes]], *, merge_domains: bool = False) -> Iterator[Row]:
    """What `load` builds its tree of. Raises as `load` does, but for the last file perhaps after some rows."""
    limits: dict[object, RateLimit] = {}
    for name, roots in _domains([(file, parse(file, text)) for file, text in files], merge_domains).items():
        known: set[str] = set()
        for file, root in roots:
            yield from _File(file, limits).rows(name, root.get("descriptors", ()), 1, known)
        yield Row(0, name)


def _domains(roots: Iterable[tuple[str, Record]], merge: bool) -> dict[str, list[tuple[str, Record]]]:
    domains: dict[str, list[tuple[str, Record]]] = {}
    for file, root in roots:
        name = root.get("domain")
        if not name:
            raise ConfigError(file, "config file cannot have empty domain")
        if name in domains and not merge:
            raise ConfigError(file, f"duplicate domain '{name}' in config file")
        domains.setdefault(name, []).append((file, root))
    return domains


@dataclass(frozen=True, slots=True)
class _File:
    """One file. Equal limits become one object: a configuration may have many thousands."""

    name: str
    limits: dict[object, RateLimit] = field(default_factory=dict)

    def rows(self, parent: str, descriptors: Iterable[Record], depth: int, known: set[str]) -> Iterator[Row]:
        """Of the descriptors of one parent; `known` are the composites that it already has."""
        for descriptor in descriptors:
            composite = self._composite(descriptor)
            path = f"{parent}.{composite}"
            if composite in known:
                raise self._error(f"duplicate descriptor composite key '{path}'")
            known.add(composite)
            share = descriptor.get("share_threshold", False)
            if share and WILDCARD not in composite:
                raise self._error(
                    f"share_threshold can only be used with wildcard values (containing '*'): '{path}' has none"
                )
            rate_limit = self._rate_limit(path, descriptor) if "rate_limit" in descriptor else None
            if children := descriptor.get("descriptors"):
                yield from self.rows(path, children, depth + 1, set())
            detailed, valued = descriptor.get("detailed_metric", False), descriptor.get("value_to_metric", False)
            yield Row(depth, composite, rate_limit, detailed, valued, share)

    def _composite(self, descriptor: Record) -> str:
        key, value = descriptor.get("key"), descriptor.get("value")
        if not key:
            raise self._error("descriptor has empty key")
        return f"{key}_{value}" if value else key

    def _rate_limit(self, path: str, descriptor: Record) -> RateLimit:
        fields, flags = descriptor["rate_limit"], (descriptor.get("shadow_mode"), descriptor.get("quota_mode"))
        if "metadata" in descriptor or "replaces" in fields:
            return self._made(path, descriptor)
        same = (*fields.items(), *flags)
        made = self.limits.get(same)
        if made is None:
            made = self.limits[same] = self._made(path, descriptor)
        return made

    def _made(self, path: str, descriptor: Record) -> RateLimit:
        fields = descriptor["rate_limit"]
        name = fields.get("name", "")
        limit = self._limit(path, fields)
        return RateLimit(
            limit,
            unit="" if limit is None else fields["unit"].upper(),
            name=name,
            replaces=self._replaces(name, fields),
            shadow=descriptor.get("shadow_mode", False),
            quota=descriptor.get("quota_mode", False),
            metadata=descriptor.get("metadata", {}),
        )

    def _limit(self, path: str, fields: Record) -> Limit | None:
        unit = fields.get("unit", "")
        period_s = PERIODS.get(unit.lower())
        if fields.get("unlimited"):
            if period_s is not None:
                raise self._error("should not specify rate limit unit when unlimited")
            return None
        if period_s is None:
            raise self._error(f"invalid rate limit unit '{unit}'")
        algorithm, amount = self._algorithm(fields), fields.get("requests_per_unit", 0)
        try:
            return Limit(fields.get("name") or unit, amount, period_s, algorithm, fields.get("burst"))
        except ValueError as error:
            raise self._error(f"{path}: {error}") from None

    def _algorithm(self, fields: Record) -> Algorithm:
        name = fields.get("algorithm") or Algorithm.FIXED_WINDOW
        try:
            return Algorithm(name)
        except ValueError:
            raise self._error(f"invalid algorithm '{name}': use one of {', '.join(Algorithm)}") from None

    def _replaces(self, name: str, fields: Record) -> tuple[str, ...]:
        names = tuple(entry.get("name", "") for entry in fields.get("replaces", ()))
        if "" in names:
            raise self._error("should not have an empty replaces entry")
        if name in names:
            raise self._error("replaces should not contain name of same descriptor")
        return names

    def _error(self, reason: str) -> ConfigError:
        return ConfigError(self.name, reason)
