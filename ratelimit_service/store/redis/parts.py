"""Splits what Redis Cluster can't decide in one step by the `{tag}`s of its keys, and joins the results."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ratelimit_service.store.port import Ask, Decision, Settlement
from ratelimit_service.store.redis.wire import tag_of


class Part(NamedTuple):
    """The charges and leases of one tag, and their positions in the whole ask."""

    ask: Ask
    charges: list[int]
    leases: list[int]


def split_ask(ask: Ask) -> list[Part]:
    charge_tags = [tag_of(charge.key) for charge in ask.charges]
    lease_tags = [tag_of(lease.key) for lease in ask.leases]
    return [
        _part(ask, _places(tag, charge_tags), _places(tag, lease_tags)) for tag in _distinct(charge_tags, lease_tags)
    ]


def join(ask: Ask, parts: Sequence[Part], decisions: Sequence[Decision]) -> Decision:
    """The decision on the whole ask, from those on its parts."""
    outcomes = {
        i: o for part, d in zip(parts, decisions, strict=True) for i, o in zip(part.charges, d.outcomes, strict=True)
    }
    leases = {
        i: o for part, d in zip(parts, decisions, strict=True) for i, o in zip(part.leases, d.leases, strict=True)
    }
    return Decision(
        all(part.allowed for part in decisions),
        tuple(outcomes[i] for i in range(len(ask.charges))),
        tuple(leases[i] for i in range(len(ask.leases))),
    )


def split_settlements(settlements: Iterable[Settlement]) -> list[list[Settlement]]:
    """For each tag, its parts of all settlements, in their order."""
    by_tag: dict[str, list[Settlement]] = {}
    for settlement in settlements:
        charge_tags = [tag_of(charge.key) for charge in settlement.charges]
        lease_tags = [tag_of(key) for key in settlement.leases]
        for tag in _distinct(charge_tags, lease_tags):
            charges = tuple(settlement.charges[i] for i in _places(tag, charge_tags))
            leases = tuple(settlement.leases[i] for i in _places(tag, lease_tags))
            part = settlement._replace(charges=charges, leases=leases)
            by_tag.setdefault(tag, []).append(part)
    return list(by_tag.values())


def _part(ask: Ask, charges: list[int], leases: list[int]) -> Part:
    sub = Ask(ask.request_id, tuple(ask.charges[i] for i in charges), tuple(ask.leases[i] for i in leases))
    return Part(sub, charges, leases)


def _distinct(*tags: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(tag for group in tags for tag in group))


def _places(tag: str, tags: Sequence[str]) -> list[int]:
    return [i for i, other in enumerate(tags) if other == tag]
