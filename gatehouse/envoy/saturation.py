"""Prioritizes tiers by their weight while a model is saturated.

Two standard mechanisms. vLLM, started with `--scheduling-policy priority`, reads a request's urgency from a header, and
keeps no slot idle while requests wait. If `concurrent_requests_per_backend` is set, Envoy also bounds the requests at
each replica, and queues the rest: its two routing priorities, each with a breaker of its own, divide the slots between
the tiers of the least weight and all others.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gatehouse.config.model import Config, Model
from gatehouse.contract import names
from gatehouse.envoy.message import Message, header

URGENCY_HEADER = "x-vllm-priority"
"""vLLM: the request with the lowest number goes first. Clients' own values are dropped."""

_MOST = 16_384
"""Requests at a time. Envoy's defaults (1,024 requests, 3 retries) are for small services."""
_RETRIES = {"budget_percent": {"value": 100}, "min_retry_concurrency": 100}
"""When one of two replicas dies, half of all requests are sent again at once."""


@dataclass(frozen=True, slots=True)
class Class:
    """The tiers of one weight; those of the least weight, and tiers that are not configured, are the `last`."""

    weight: int
    tiers: tuple[str, ...]
    last: bool

    def tier_match(self) -> list[Message]:
        """What a route requires of the caller's metadata."""
        if self.last:
            return []
        text = {"safe_regex": {"regex": "|".join(map(re.escape, self.tiers))}}
        return [{"filter": names.AUTHZ, "path": [{"key": "tier"}], "value": {"string_match": text}}]

    def urgency(self) -> list[Message]:
        """The header for vLLM."""
        return [header(URGENCY_HEADER, str(-self.weight))]

    def priority(self) -> Message:
        return {} if self.last else {"priority": "HIGH"}


def classes(config: Config) -> list[Class]:
    """The heaviest first; none if all tiers weigh the same."""
    weights = sorted({tier.weight for tier in config.rate_limits.values()}, reverse=True)
    if len(weights) < 2:
        return []
    return [Class(weight, tuple(_of_weight(config, weight)), weight == weights[-1]) for weight in weights]


def _of_weight(config: Config, weight: int) -> Iterator[str]:
    return (name for name, tier in config.rate_limits.items() if tier.weight == weight)


def breakers(config: Config, model: Model) -> Message:
    """How many requests a model's replicas get at a time, and how many may wait."""
    priorities: list[Message] = [{}, {"priority": "HIGH"}] if classes(config) else [{}]
    slots = model.concurrent_requests_per_backend
    waiting = _MOST if slots is None else model.queued_requests
    thresholds = [_threshold(priority, waiting) for priority in priorities]
    if slots is None:
        return {"thresholds": thresholds}
    shares = slot_shares(config, slots)
    per_host = [{**each, "max_connections": share} for each, share in zip(priorities, shares, strict=True)]
    return {"thresholds": thresholds, "per_host_thresholds": per_host}


def _threshold(priority: Message, waiting: int) -> Message:
    most = {"max_connections": _MOST, "max_pending_requests": waiting, "max_requests": _MOST}
    return {**priority, **most, "retry_budget": _RETRIES}


def slot_shares(config: Config, slots: int) -> tuple[int, ...]:
    """The slots of the last class, and of all others together; all of them if there is one class."""
    found = classes(config)
    if not found:
        return (slots,)
    total = sum(each.weight * len(each.tiers) for each in found)
    last = found[-1].weight * len(found[-1].tiers)
    share = min(max(round(slots * last / total), 1), max(slots - 1, 1))
    return share, max(slots - share, 1)
