"""The limits of `gatehouse.yaml` as charges against the store."""

from collections.abc import Mapping

from gatehouse.config.model import PERIODS, Config, Tier
from ratelimit_service.caller import Caller
from ratelimit_service.limits import Algorithm, Limit
from ratelimit_service.store import Ask, Charge


class Tiers:
    """What each caller must pass. Made once; asking allocates only the charges themselves."""

    def __init__(self, config: Config) -> None:
        self._limits: Mapping[str, tuple[Limit, ...]] = {
            name: _request_limits(tier) for name, tier in config.rate_limits.items()
        }

    def ask(self, caller: Caller) -> Ask:
        """One charge a window of the caller's tier. Counters belong to the user, whatever key is used.

        The braces keep all counters of a user on one slot of a Redis Cluster.
        """
        key = f"{{u:{caller.user}}}"
        return Ask(caller.request_id, tuple(Charge(key, limit) for limit in self._limits.get(caller.tier, ())))


def _request_limits(tier: Tier) -> tuple[Limit, ...]:
    algorithm = Algorithm(tier.algorithm)
    return tuple(
        Limit(f"requests_per_{period}", amount, PERIODS[period], algorithm, shadow=tier.shadow)
        for period, amount in tier.requests()
    )
