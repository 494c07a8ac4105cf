"""What one request must pass, and what it turned out to have used.

A request meets the rules of its tier (counted for each user), of its model within the tier, of its user, its team and
its key; all must pass. Counters belong to users, teams and keys, so changing a tier keeps the counts. The rules of a
key come with its requests; keys that rotation made of each other share their counters.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from gatehouse.config.model import Config, Price
from gatehouse.envoy.access_log import PERIOD_S
from gatehouse.envoy.names import MISSING_MODEL
from gatehouse.prices import cost_micro_usd, prices
from ratelimit_service.caller import Caller
from ratelimit_service.estimate import Tokens, estimate
from ratelimit_service.key_rules import KeyRules
from ratelimit_service.limits import MAX_AMOUNT, Limit
from ratelimit_service.rules import NOTHING, Concurrency, Rule, rule_set
from ratelimit_service.shown import Shown, shown
from ratelimit_service.store import Ask, Charge, LeaseAsk, Renewal, Settlement

LEASE_TTL_MS = 3 * PERIOD_S * 1000
"""A running request shows a sign of life every `PERIOD_S`; after three that are missing it counts as gone."""

REMEMBERED = 4096
"""Callers, each with a model, whose rules are kept ready."""


class Plan(NamedTuple):
    """What to ask of the store for one request, the rules behind it, in the same order, and what is told of them."""

    ask: Ask
    rules: tuple[Rule, ...]
    concurrency: tuple[Concurrency, ...]
    shown: tuple[Shown, ...]


@dataclass(frozen=True, slots=True)
class _Counter:
    """A rule, for one holder. `fixed` is its charge where that is the same for every request."""

    key: str
    limit: Limit
    measure: str
    fixed: Charge | None

    def charge(self, hits: Mapping[str, int]) -> Charge:
        """Of one that is not fixed."""
        return Charge(self.key, self.limit, hits[self.measure], reserve=True)

    def capped(self, hits: Mapping[str, int]) -> Charge:
        """A guess larger than the whole limit would keep the request out for ever."""
        return self.fixed or Charge(self.key, self.limit, min(hits[self.measure], self.limit.capacity), reserve=True)


@dataclass(frozen=True, slots=True)
class _Standing:
    """What is the same for every request of a caller to a model."""

    rules: tuple[Rule, ...]
    concurrency: tuple[Concurrency, ...]
    shown: tuple[Shown, ...]
    counters: tuple[_Counter, ...]
    leases: tuple[LeaseAsk, ...]
    price: Price | None


class Plans:
    """Every rule of a configuration, ready to be asked. Works out only what differs from request to request."""

    def __init__(self, config: Config, key_rules: KeyRules | None = None, *, lease_ttl_ms: int = LEASE_TTL_MS) -> None:
        self._lease_ttl_ms = lease_ttl_ms
        self._known_tiers = frozenset(config.rate_limits)
        self._default_model = config.the_default_model or ""
        self._model_of = {alias: name for name, model in config.models.items() for alias in model.aliases}
        self._prices = prices(config)
        self._tiers = {name: rule_set(tier, "tier") for name, tier in config.rate_limits.items()}
        self._models = {
            (name, model): rule_set(limits, "model", f"/{model}/")
            for name, tier in config.rate_limits.items()
            for model, limits in tier.models.items()
        }
        self._users = {name: rule_set(user.limits, "user", "u") for name, user in config.users.items() if user.limits}
        self._teams = {name: rule_set(team.limits, "team") for name, team in config.teams.items() if team.limits}
        self._keys = key_rules or KeyRules()
        self._remembered = lru_cache(REMEMBERED)(self._stands)

    def identifies(self, caller: Caller) -> bool:
        """Whether it is said who asks, and by which limits. Where no tier has limits, every tier is known."""
        named = caller.user and caller.tier and caller.key_id
        return bool(named) and (caller.tier in self._known_tiers or not self._known_tiers)

    def plan(self, caller: Caller) -> Plan:
        """Everything that `caller`'s request must pass, with guesses for what only its end will tell."""
        standing = self._standing(caller)
        hits = _hits(standing, estimate(caller))
        charges = tuple([counter.capped(hits) for counter in standing.counters])
        ask = Ask(caller.request_id, charges, standing.leases)
        return Plan(ask, standing.rules, standing.concurrency, standing.shown)

    def rules(self) -> Iterator[Rule]:
        """Every rule of a tier, a user or a team."""
        for rules in (*self._tiers.values(), *self._users.values(), *self._teams.values()):
            yield from rules.rules

    def counters(self, caller: Caller) -> list[tuple[Rule, str]]:
        """Every rule that `caller` meets, and the key of what it counts."""
        standing = self._standing(caller)
        return [(rule, counter.key) for rule, counter in zip(standing.rules, standing.counters, strict=True)]

    def settlement(self, caller: Caller, true: Tokens | None, *, late: bool = False) -> Settlement:
        """The same request, ended. `true` is None when nobody knows: what was reserved then stays charged."""
        standing = self._standing(caller)
        reserved = () if true is None else _reserved(standing, _hits(standing, true))
        return Settlement(caller.request_id, reserved, tuple([lease.key for lease in standing.leases]), late)

    def renewals(self, caller: Caller) -> list[Renewal]:
        """The same request, seen running: its leases hold on."""
        leases = self._standing(caller).leases
        return [Renewal(caller.request_id, lease.key, lease.ttl_ms) for lease in leases]

    def _standing(self, caller: Caller) -> _Standing:
        key = caller.key_family or caller.key_id
        return self._remembered(caller.user, caller.team, caller.tier, key, caller.key_limits, caller.model)

    def _stands(self, user: str, team: str, tier: str, key: str, key_limits: str, model: str) -> _Standing:
        """The braces around a holder's name keep all its counters on one slot of a Redis Cluster."""
        model = self._model(model)
        holders = (
            (f"{{u:{user}}}", self._tiers.get(tier, NOTHING)),
            (f"{{u:{user}}}", self._models.get((tier, model), NOTHING)),
            (f"{{u:{user}}}", self._users.get(user, NOTHING)),
            (f"{{t:{team}}}", self._teams.get(team, NOTHING)),
            (f"{{k:{key}}}", self._keys.of(key_limits)),
        )
        met = tuple(rule for _, rules in holders for rule in rules.rules)
        return _Standing(
            met,
            tuple(rule for _, rules in holders for rule in rules.concurrency),
            shown(met),
            tuple(_counter(holder, rule) for holder, rules in holders for rule in rules.rules),
            tuple(
                LeaseAsk(holder + rule.counter, rule.name, rule.most, self._lease_ttl_ms, rule.shadow)
                for holder, rules in holders
                for rule in rules.concurrency
            ),
            self._prices.get(model),
        )

    def _model(self, said: str) -> str:
        name = self._default_model if said in ("", MISSING_MODEL) else said
        return self._model_of.get(name, name)


def _counter(holder: str, rule: Rule) -> _Counter:
    key, limit = holder + rule.counter, rule.limit
    once = Charge(key, limit, min(1, limit.capacity)) if rule.measure == "requests" else None
    return _Counter(key, limit, rule.measure, once)


def _reserved(standing: _Standing, hits: Mapping[str, int]) -> tuple[Charge, ...]:
    return tuple([counter.charge(hits) for counter in standing.counters if counter.fixed is None])


def _hits(standing: _Standing, tokens: Tokens) -> Mapping[str, int]:
    price = standing.price
    cost = cost_micro_usd(price, tokens.input, tokens.output, tokens.cached) if price else 0
    return {
        "input_tokens": min(tokens.input, MAX_AMOUNT),
        "output_tokens": min(tokens.output, MAX_AMOUNT),
        "tokens": min(tokens.total, MAX_AMOUNT),
        "budget": min(cost, MAX_AMOUNT),
    }
