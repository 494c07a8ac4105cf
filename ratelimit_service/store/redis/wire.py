"""The scripts' protocol: turns asks into KEYS and ARGV, and replies into decisions.

Keys in Redis, after the prefix:

* `KEY:s60`, `KEY:f60`, `KEY:t60`: a bucket of 60 s: sliding window, fixed window, token bucket (MessagePack)
* `KEY:l`: the leases of a key: a sorted set of request ids by the end of their leases
* `r:REQUEST_ID`: what a request has reserved and where (MessagePack); an empty string once it is settled
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ratelimit_service.store.port import Ask, Charge, Decision, LeaseOutcome, Outcome, Renewal, Settlement
from ratelimit_service.store.redis.scripts import RENEW, SETTLE, UNDO, Script

Argument = str | bytes | int

_CHARGE = struct.Struct("<cddddBB")  # algorithm, amount, period, capacity, hits, shadow, reserve
_LEASE = struct.Struct("<ddB")  # limit, ttl, shadow
_OUTCOME = 4  # integers per charge in a reply: wait, remaining, reset_after, mark
_NEVER = -1


class Command(NamedTuple):
    """One call of a script."""

    script: Script
    keys: Sequence[str]
    arguments: Sequence[Argument]


def tag_of(key: str) -> str:
    """What Redis Cluster hashes to find the slot: the text in the first braces, or the whole key."""
    tag, closed, _ = key.partition("{")[2].partition("}")
    return tag if closed and tag else key


@dataclass(frozen=True, slots=True)
class Wire:
    """The scripts' commands, with keys that begin with `prefix`.

    `now` is the time in milliseconds, or empty for Redis's own clock. With `tagged` all keys of a command have the same
    `{tag}`, as Redis Cluster demands, if those of its charges and leases do: a key without braces is a tag as a whole,
    and reservations have the tag of the charges.
    """

    prefix: str
    now: int | str = ""
    tagged: bool = False

    def decide(self, script: Script, ask: Ask) -> Command:
        keys = self._keys(ask.charges, [lease.key for lease in ask.leases])
        if any(charge.reserve for charge in ask.charges):
            keys.append(self._reservations(ask.request_id, ask.charges[0].key))
        arguments = self._arguments(ask.request_id, ask.charges, len(ask.leases))
        arguments += [_LEASE.pack(lease.limit, lease.ttl_ms, lease.shadow) for lease in ask.leases]
        return Command(script, keys, arguments)

    def undo(self, ask: Ask, reply: Sequence[int]) -> Command:
        """Undo an ask that `reply` admitted."""
        marks = reply[_OUTCOME : 1 + _OUTCOME * len(ask.charges) : _OUTCOME]
        command = self.decide(UNDO, ask)
        arguments = self._arguments(ask.request_id, ask.charges, len(ask.leases))
        return command._replace(arguments=[*arguments, *marks])

    def refund(self, charge: Charge) -> Command:
        """Subtract a charge from the current window."""
        return Command(UNDO, self._keys([charge], ()), self._arguments("", [charge], 0))

    def settle(self, settlements: Iterable[Settlement]) -> Command:
        """Many settlements in one step."""
        keys: list[str] = []
        arguments: list[Argument] = [self.now]
        for settlement in settlements:
            charges, leases = settlement.charges, settlement.leases
            keys += self._keys(charges, leases)
            if charges:
                keys.append(self._reservations(settlement.request_id, charges[0].key))
            arguments += settlement.request_id, len(charges), len(leases), int(settlement.late)
            arguments += map(_pack_charge, charges)
        return Command(SETTLE, keys, arguments)

    def renew(self, renewal: Renewal) -> Command:
        return Command(RENEW, self._keys((), [renewal.key]), [self.now, renewal.request_id, renewal.ttl_ms])

    def _keys(self, charges: Iterable[Charge], leases: Iterable[str]) -> list[str]:
        buckets = [
            f"{self._entity(charge.key)}:{charge.limit.algorithm[0]}{charge.limit.period_s}"  # f, s, t
            for charge in charges
        ]
        return buckets + [f"{self._entity(key)}:l" for key in leases]

    def _entity(self, key: str) -> str:
        return f"{self.prefix}{{{key}}}" if self.tagged and tag_of(key) == key else self.prefix + key

    def _reservations(self, request_id: str, key: str) -> str:
        return f"{self.prefix}{{{tag_of(key)}}}r:{request_id}" if self.tagged else f"{self.prefix}r:{request_id}"

    def _arguments(self, request_id: str, charges: Sequence[Charge], leases: int) -> list[Argument]:
        return [self.now, request_id, len(charges), leases, *map(_pack_charge, charges)]


def decision(ask: Ask, reply: Sequence[int]) -> Decision:
    """The decision in a reply of decide.lua."""
    numbers = iter(reply)
    allowed = next(numbers) == 1
    outcomes = [_outcome(charge, next(numbers), next(numbers), next(numbers), next(numbers)) for charge in ask.charges]
    leases = [LeaseOutcome(lease, next(numbers) == 1, next(numbers)) for lease in ask.leases]
    return Decision(allowed, tuple(outcomes), tuple(leases))


def _outcome(charge: Charge, wait: int, remaining: int, reset_after: int, _mark: int) -> Outcome:
    return Outcome(charge, wait == 0, remaining, reset_after, None if wait == _NEVER else wait)


def _pack_charge(charge: Charge) -> bytes:
    limit = charge.limit
    letter = limit.algorithm[0].encode()
    return _CHARGE.pack(
        letter, limit.amount, limit.period_ms, limit.capacity, charge.hits, limit.shadow, charge.reserve
    )
