"""The rules of single keys. They come with each request as JSON: keys come and go while this service runs."""

import logging
from collections.abc import Callable
from functools import lru_cache

from gatehouse.keys.limits_json import parsed
from ratelimit_service.rules.rule_set import NOTHING, RuleSet, rule_set

log = logging.getLogger(__name__)

REMEMBERED = 4096
"""Distinct limits of keys whose rules are cached."""


class KeyRules:
    """Limits that can't be parsed (a newer gateway's, at worst) are not applied: the limits of the key's tier, user and
    team still hold, and refusing everything would turn a typing error into an outage. It is logged, and `unreadable` is
    called, once while the text is cached."""

    def __init__(self, unreadable: Callable[[], None] = lambda: None) -> None:
        self._unreadable = unreadable
        self._rules = lru_cache(REMEMBERED)(self._read)

    def of(self, limits: str) -> RuleSet:
        """The rules in `limits`, `NOTHING` if it has none. Never raises."""
        return self._rules(limits) if limits else NOTHING

    def _read(self, limits: str) -> RuleSet:
        try:
            rules = rule_set(parsed(limits), "key")
        except ValueError as error:
            log.error("limits of a key can't be parsed and are not applied: %.200r (%s)", limits, type(error).__name__)
            self._unreadable()
            return NOTHING
        return rules if rules.rules or rules.concurrency else NOTHING
