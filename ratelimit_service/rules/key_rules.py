"""The rules of single keys. They come with each request, as JSON: keys are made and revoked while this service runs."""

import logging
from collections.abc import Callable
from functools import lru_cache

from gatehouse.keys.limits_json import parsed
from ratelimit_service.rules.rule_set import NOTHING, RuleSet, rule_set

log = logging.getLogger(__name__)

REMEMBERED = 4096
"""Different limits of keys that are kept ready."""


class KeyRules:
    """Limits that can't be read (a newer gateway's, at worst) are none: the limits of the key's tier, user and team
    hold nevertheless, and refusing everything would turn a typing error into an outage. It is logged, and `unreadable`
    is told; once while the text is remembered."""

    def __init__(self, unreadable: Callable[[], None] = lambda: None) -> None:
        self._unreadable = unreadable
        self._rules = lru_cache(REMEMBERED)(self._read)

    def of(self, limits: str) -> RuleSet:
        """The rules that `limits` says, `NOTHING` when it says none. Never raises."""
        return self._rules(limits) if limits else NOTHING

    def _read(self, limits: str) -> RuleSet:
        try:
            rules = rule_set(parsed(limits), "key")
        except ValueError as error:
            log.error("limits of a key can't be read and don't count: %.200r (%s)", limits, type(error).__name__)
            self._unreadable()
            return NOTHING
        return rules if rules.rules or rules.concurrency else NOTHING
