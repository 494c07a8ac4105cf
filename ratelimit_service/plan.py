"""Builds the charges and leases of a request, and its settlement.

A request meets the rules of its tier (counted for each user), of its model within the tier, of its user, its team and
its key; all must admit it. Counters belong to users, teams and keys, so changing a tier keeps the counts. The rules of
a key come with its requests; keys rotated from one another share their counters.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from gatehouse.config.model import MEASURES, Config, Price
from gatehouse.config.prices import cost_micro_usd, prices
from gatehouse.contract.access_log import PERIOD_S
from gatehouse.contract.asks import Asks
from ratelimit_service.caller import Caller
from ratelimit_service.estimate.answer_lengths import Lengths
from ratelimit_service.estimate.guess import Tokens, at_most, estimate
from ratelimit_service.header_plan import Shown, shown
from ratelimit_service.rules.key_rules import KeyRules
from ratelimit_service.rules.rule_set import NOTHING, Concurrency, Rule, rule_set
from ratelimit_service.store.limits import MAX_AMOUNT, Limit
from ratelimit_service.store.port import Ask, Charge, LeaseAsk, Renewal, Settlement

LEASE_TTL_MS = 3 * PERIOD_S * 1000
"""A running request is reported every `PERIOD_S`; after three missing reports its lease expires."""

REMEMBERED = 4096
"""Pairs of caller and model whose rules are cached."""

_EVERYTHING = frozenset({*MEASURES, "budget"})
_NO_OUTPUT = _EVERYTHING - {"output_tokens"}
_NO_TOKENS = frozenset({"requests"})
"""The measures that a request can use."""


class Plan(NamedTuple):
    """What to ask the store for one request, the rules behind it in the same order, and the headers to show."""

    ask: Ask
    rules: tuple[Rule, ...]
    concurrency: tuple[Concurrency, ...]
    shown: tuple[Shown, ...]


@dataclass(frozen=True, slots=True)
class _Counter:
    """A rule for one holder. `fixed` is its charge if that is the same for every request."""

    key: str
    limit: Limit
    capacity: int
    measure: str
    fixed: Charge | None

    def charge(self, hits: Mapping[str, int]) -> Charge:
        """The charge of a counter that is not fixed."""
        return Charge(self.key, self.limit, hits[self.measure], reserve=True)

    def guessed(self, hits: Mapping[str, int], asks: Asks, price: Price | None) -> Charge:
        """The charge of a counter that is not fixed, before the request runs.

        A guess larger than the whole limit may be wrong, and would refuse the request for ever. So it is charged a
        little more than half the limit: it needs no empty window, and no second one runs beside it. If the output that
        the request allows is already larger than the limit, it is charged that output, and every store refuses it.
        """
        guess = hits[self.measure]
        return Charge(self.key, self.limit, guess if guess <= self.capacity else self._beyond(asks, price), True)

    def _beyond(self, asks: Asks, price: Price | None) -> int:
        bound = at_most(asks)
        wanted = _hits(price, bound)[self.measure] if bound else 0
        return wanted if wanted > self.capacity else self.capacity // 2 + 1


@dataclass(frozen=True, slots=True)
class _CallerRules:
    """What is the same for all requests of a caller to a model."""

    rules: tuple[Rule, ...]
    concurrency: tuple[Concurrency, ...]
    shown: tuple[Shown, ...]
    counters: tuple[_Counter, ...]
    leases: tuple[LeaseAsk, ...]
    price: Price | None
    charges: tuple[Charge, ...] | None
    """The charges of every request, if none depends on what it uses; else None."""


class Plans:
    """All rules of a configuration. Per request it computes only what differs between requests.

    `key_rules` and `lengths` outlive a configuration.
    """

    def __init__(
        self,
        config: Config,
        key_rules: KeyRules | None = None,
        lengths: Lengths | None = None,
        *,
        lease_ttl_ms: int = LEASE_TTL_MS,
    ) -> None:
        self._lease_ttl_ms = lease_ttl_ms
        self._lengths = Lengths() if lengths is None else lengths
        self._known_tiers = frozenset(config.rate_limits)
        self._default_model = config.effective_default_model or ""
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
        self._cached = lru_cache(REMEMBERED)(self._build)

    def identifies(self, caller: Caller) -> bool:
        """Whether `caller` names a user, a key and a known tier. If no tier has limits, every tier is known."""
        named = caller.user and caller.tier and caller.key_id
        return bool(named) and (caller.tier in self._known_tiers or not self._known_tiers)

    def plan(self, caller: Caller) -> Plan:
        """Everything that `caller`'s request must pass, with guesses for what is known only at its end."""
        cached = self._caller_rules(caller)
        charges = self._guessed(cached, caller) if cached.charges is None else cached.charges
        ask = Ask(caller.request_id, charges, cached.leases)
        return Plan(ask, cached.rules, cached.concurrency, cached.shown)

    def guess(self, caller: Caller) -> Tokens:
        """The tokens that the request may use."""
        unbounded = caller.asks.max_tokens is None
        usual = self._lengths.usual(caller.user, self._model(caller.model)) if unbounded else 0
        return estimate(caller.asks, usual)

    def learn(self, caller: Caller, true: Tokens) -> None:
        """Learn from a completely answered request, which used `true`. One that sets a maximum says nothing about those
        that don't."""
        if caller.asks.max_tokens is None:
            choices = max(1, caller.asks.choices)
            self._lengths.learn(caller.user, self._model(caller.model), -(-true.output // choices))

    def rules(self) -> Iterator[Rule]:
        """Every configured rule: of a tier, a model within a tier, a user or a team."""
        for rules in (*self._tiers.values(), *self._models.values(), *self._users.values(), *self._teams.values()):
            yield from rules.rules

    def counters(self, caller: Caller) -> list[tuple[Rule, str]]:
        """Every rule that `caller` meets, and the key of its counter."""
        cached = self._caller_rules(caller)
        return [(rule, counter.key) for rule, counter in zip(cached.rules, cached.counters, strict=True)]

    def settlement(self, caller: Caller, true: Tokens | None, *, late: bool = False) -> Settlement:
        """The settlement of an ended request. `true` is None when unknown: what was reserved then stays charged."""
        cached = self._caller_rules(caller)
        reserved = () if true is None else _reserved(cached, _hits(cached.price, true))
        return Settlement(caller.request_id, reserved, tuple([lease.key for lease in cached.leases]), late)

    def renewals(self, caller: Caller) -> list[Renewal]:
        """Renewals of a running request's leases."""
        leases = self._caller_rules(caller).leases
        return [Renewal(caller.request_id, lease.key, lease.ttl_ms) for lease in leases]

    def _guessed(self, cached: _CallerRules, caller: Caller) -> tuple[Charge, ...]:
        hits, asks, price = _hits(cached.price, self.guess(caller)), caller.asks, cached.price
        return tuple([counter.fixed or counter.guessed(hits, asks, price) for counter in cached.counters])

    def _caller_rules(self, caller: Caller) -> _CallerRules:
        key, uses = caller.key_family or caller.key_id, _uses(caller.asks)
        return self._cached(caller.user, caller.team, caller.tier, key, caller.key_limits, caller.model, uses)

    def _build(
        self, user: str, team: str, tier: str, key: str, key_limits: str, model: str, uses: frozenset[str]
    ) -> _CallerRules:
        """Limits on what the request can't use don't apply to it, spent or not.

        The braces around a holder's name keep all its counters on one slot of a Redis Cluster."""
        model = self._model(model)
        holders = (
            (f"{{u:{user}}}", self._tiers.get(tier, NOTHING)),
            (f"{{u:{user}}}", self._models.get((tier, model), NOTHING)),
            (f"{{u:{user}}}", self._users.get(user, NOTHING)),
            (f"{{t:{team}}}", self._teams.get(team, NOTHING)),
            (f"{{k:{key}}}", self._keys.of(key_limits)),
        )
        met = [(holder, rule) for holder, rules in holders for rule in rules.rules if rule.measure in uses]
        rules = tuple(rule for _, rule in met)
        counters = tuple(_counter(holder, rule) for holder, rule in met)
        fixed = tuple(counter.fixed for counter in counters if counter.fixed)
        return _CallerRules(
            rules,
            tuple(rule for _, rules in holders for rule in rules.concurrency),
            shown(rules),
            counters,
            tuple(
                LeaseAsk(holder + rule.counter, rule.name, rule.most, self._lease_ttl_ms, rule.shadow)
                for holder, rules in holders
                for rule in rules.concurrency
            ),
            self._prices.get(model),
            fixed if len(fixed) == len(counters) else None,
        )

    def _model(self, requested: str) -> str:
        name = requested or self._default_model
        return self._model_of.get(name, name)


def _uses(asks: Asks) -> frozenset[str]:
    if asks.max_tokens != 0:
        return _EVERYTHING
    return _NO_OUTPUT if asks.prompt_bytes or asks.images else _NO_TOKENS


def _counter(holder: str, rule: Rule) -> _Counter:
    key, limit = holder + rule.counter, rule.limit
    once = Charge(key, limit, min(1, limit.capacity)) if rule.measure == "requests" else None
    return _Counter(key, limit, limit.capacity, rule.measure, once)


def _reserved(cached: _CallerRules, hits: Mapping[str, int]) -> tuple[Charge, ...]:
    return tuple([counter.charge(hits) for counter in cached.counters if counter.fixed is None])


def _hits(price: Price | None, tokens: Tokens) -> Mapping[str, int]:
    cost = cost_micro_usd(price, tokens.input, tokens.output, tokens.cached) if price else 0
    return {
        "input_tokens": min(tokens.input, MAX_AMOUNT),
        "output_tokens": min(tokens.output, MAX_AMOUNT),
        "tokens": min(tokens.input + tokens.output, MAX_AMOUNT),
        "budget": min(cost, MAX_AMOUNT),
    }
