"""Which models a caller may use, and from where: the rules of key, user, team and tier must all allow it.

A key lists models by patterns. Where the configuration names the models, patterns are expanded to the names they match,
so that Envoy only searches a list; a model that is allowed by one of its names is allowed by all of them. Where any
name goes to one model server, names stay names and wildcards become regular expressions.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from authz_service.principals import Network, Principal, network
from gatehouse.config.model import Config, Holder, Tier
from gatehouse.contract import model_patterns as patterns

log = logging.getLogger(__name__)

EVERYTHING = (patterns.EVERYTHING,)
REMEMBERED = 1024
"""Combinations of rules to cache."""

Patterns = tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Access:
    """The rules that apply to a caller beyond the key itself.

    A model may be used if it is one of `models`, or if every one of `expressions` (there is at least one) is found in
    its name. `models` is `EVERYTHING` where nothing restricts. Of each of `networks` some network must have the
    client's address. A `disabled` user is always rejected.
    """

    models: tuple[str, ...] = EVERYTHING
    expressions: tuple[str, ...] = ()
    networks: tuple[tuple[Network, ...], ...] = ()
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class _Level:
    models: Patterns
    networks: tuple[Network, ...]
    disabled: bool = False


_FREE = _Level(EVERYTHING, ())


class Rules:
    """The rules of a configuration. Their result is computed once for all callers with the same rules."""

    def __init__(self, config: Config) -> None:
        self._levels = {
            kind: {name: _level(holder) for name, holder in holders.items()}
            for kind, holders in (("user", config.users), ("team", config.teams), ("tier", config.rate_limits))
        }
        default = config.effective_default_model
        self._names = () if config.vllm else tuple((name, *model.aliases) for name, model in config.models.items())
        self._always_listed = (default,) if default and config.vllm else ()
        self._access = lru_cache(REMEMBERED)(self._worked_out)

    def of(self, principal: Principal) -> Access:
        """The rules for `principal`, whom the configuration need not name."""
        named = (("user", principal.user), ("team", principal.team), ("tier", principal.tier))
        levels = [level for kind, name in named if (level := self._levels[kind].get(name))]
        return self._access(principal.models, *levels)

    def _worked_out(self, own: Patterns, *levels: _Level) -> Access:
        restricting = {
            models
            for models in (own, *(level.models for level in levels))
            if not any(map(patterns.is_everything, models))
        }
        models, expressions = self._models(sorted(restricting))
        networks = tuple(level.networks for level in levels if level.networks)
        return Access(models, expressions, networks, any(level.disabled for level in levels))

    def _models(self, lists: Sequence[Patterns]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names and expressions for what all of `lists` allow."""
        if not lists:
            return EVERYTHING, ()
        return (self._named(lists), ()) if self._names else self._unnamed(lists)

    def _named(self, lists: Sequence[Patterns]) -> tuple[str, ...]:
        tests = [patterns.matcher(each) for each in lists]
        allowed = [names for names in self._names if all(any(map(test, names)) for test in tests)]
        return EVERYTHING if len(allowed) == len(self._names) else tuple(name for names in allowed for name in names)

    def _unnamed(self, lists: Sequence[Patterns]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """A name that one list spells out must match the others too; any other must match a wildcard of each."""
        tests = [patterns.matcher(each) for each in lists]
        spelt = {name for each in lists for name in each if not patterns.is_wild(name)}.union(self._always_listed)
        names = tuple(sorted(name for name in spelt if all(test(name) for test in tests)))
        wild = [tuple(filter(patterns.is_wild, each)) for each in lists]
        if any(patterns.size(each) > patterns.MAX_SIZE for each in wild):
            log.error("patterns %s are too many or too long for Envoy to evaluate: they allow nothing", wild)
            return names, ()
        return names, tuple(map(patterns.regex, wild)) if all(wild) else ()


def _level(holder: Holder | Tier) -> _Level:
    models = holder.allowed_models if isinstance(holder, Tier) else holder.models
    return _Level(models, tuple(map(network, holder.allowed_ips)), getattr(holder, "disabled", False))
