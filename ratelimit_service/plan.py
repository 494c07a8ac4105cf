"""What one request must pass, and what it turned out to have used.

A request meets the rules of its tier (counted for each user), of its model within the tier, of its user, its team and
its key; all must pass. Counters belong to users, teams and keys, so changing a tier keeps the counts. The rules of a
key come with its requests; keys that rotation made of each other share their counters.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from gatehouse.config.model import Config
from gatehouse.envoy.access_log import PERIOD_S
from gatehouse.envoy.names import MISSING_MODEL
from gatehouse.prices import cost_micro_usd, prices
from ratelimit_service.caller import Caller
from ratelimit_service.estimate import Tokens, estimate
from ratelimit_service.key_rules import KeyRules
from ratelimit_service.limits import MAX_AMOUNT
from ratelimit_service.rules import NOTHING, Concurrency, Rule, RuleSet, rule_set
from ratelimit_service.store import Ask, Charge, LeaseAsk, Renewal, Settlement

LEASE_TTL_MS = 3 * PERIOD_S * 1000
"""A running request shows a sign of life every `PERIOD_S`; after three that are missing it counts as gone."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ask of the store for one request, and the rules behind it, in the same order."""

    ask: Ask
    rules: tuple[Rule, ...]
    concurrency: tuple[Concurrency, ...]


@dataclass(frozen=True, slots=True)
class _Applied:
    """A rule set, for one holder: `holder` begins the keys of its counters. The braces around a holder's name keep all
    its counters on one slot of a Redis Cluster."""

    holder: str
    rules: RuleSet


class Plans:
    """Every rule of a configuration, ready to be asked. Allocates only what differs from request to request."""

    def __init__(self, config: Config, key_rules: KeyRules | None = None, *, lease_ttl_ms: int = LEASE_TTL_MS) -> None:
        self._lease_ttl_ms = lease_ttl_ms
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

    def plan(self, caller: Caller) -> Plan:
        """Everything that `caller`'s request must pass, with guesses for what only its end will tell."""
        applied = self._applied(caller)
        rules = tuple(chain.from_iterable(entry.rules.rules for entry in applied))
        concurrency = tuple(chain.from_iterable(entry.rules.concurrency for entry in applied))
        charges = tuple(self._charges(applied, self._hits(caller, estimate(caller)), capped=True))
        return Plan(Ask(caller.request_id, charges, tuple(self._leases(applied))), rules, concurrency)

    def settlement(self, caller: Caller, true: Tokens | None, *, late: bool = False) -> Settlement:
        """The same request, ended. `true` is None when nobody knows: what was reserved then stays charged."""
        applied = self._applied(caller)
        charges = () if true is None else tuple(self._charges(applied, self._hits(caller, true)))
        reserved = tuple(charge for charge in charges if charge.reserve)
        return Settlement(caller.request_id, reserved, tuple(lease.key for lease in self._leases(applied)), late)

    def renewals(self, caller: Caller) -> list[Renewal]:
        """The same request, seen running: its leases hold on."""
        leases = self._leases(self._applied(caller))
        return [Renewal(caller.request_id, lease.key, lease.ttl_ms) for lease in leases]

    def _applied(self, caller: Caller) -> tuple[_Applied, ...]:
        model = self._model(caller)
        user = f"{{u:{caller.user}}}"
        found = (
            _Applied(user, self._tiers.get(caller.tier, NOTHING)),
            _Applied(user, self._models.get((caller.tier, model), NOTHING)),
            _Applied(user, self._users.get(caller.user, NOTHING)),
            _Applied(f"{{t:{caller.team}}}", self._teams.get(caller.team, NOTHING)),
            _Applied(f"{{k:{caller.key_family or caller.key_id}}}", self._keys.of(caller.key_limits)),
        )
        return tuple(entry for entry in found if entry.rules is not NOTHING)

    def _model(self, caller: Caller) -> str:
        name = self._default_model if caller.model in ("", MISSING_MODEL) else caller.model
        return self._model_of.get(name, name)

    @staticmethod
    def _charges(applied: tuple[_Applied, ...], hits: Mapping[str, int], *, capped: bool = False) -> Iterator[Charge]:
        """`capped`: a guess larger than the whole limit would keep the request out for ever."""
        for entry in applied:
            for rule in entry.rules.rules:
                amount = min(hits[rule.measure], rule.limit.capacity) if capped else hits[rule.measure]
                yield Charge(entry.holder + rule.counter, rule.limit, amount, reserve=rule.measure != "requests")

    def _hits(self, caller: Caller, tokens: Tokens) -> Mapping[str, int]:
        price = self._prices.get(self._model(caller))
        cost = cost_micro_usd(price, tokens.input, tokens.output, tokens.cached) if price else 0
        counts = {"input_tokens": tokens.input, "output_tokens": tokens.output, "tokens": tokens.total, "budget": cost}
        return {"requests": 1, **{measure: min(count, MAX_AMOUNT) for measure, count in counts.items()}}

    def _leases(self, applied: tuple[_Applied, ...]) -> Iterator[LeaseAsk]:
        for entry in applied:
            for rule in entry.rules.concurrency:
                yield LeaseAsk(entry.holder + rule.counter, rule.name, rule.most, self._lease_ttl_ms, rule.shadow)
