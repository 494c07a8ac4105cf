"""Lines of the request log -> sums. Pure."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from gatehouse.contract.errors import UPSTREAM_ERROR
from gatehouse.contract.names import ENDPOINTS

STEP_S = 5
"""Length of a step of traffic, in seconds."""

_ENDPOINTS = frozenset(ENDPOINTS)

Line = dict[str, Any]
ModelLabel = Callable[[str | None, bool], str]
"""A model's name, and whether a model server has answered for it -> one of a bounded number of names."""


@dataclass(slots=True)
class Day:
    """One user's usage with one key on one day. Costs are in billionths of a US dollar, so that sums are exact;
    None where no price is known. `admitted` counts the requests that limits admitted."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_nano_usd: int | None = None
    team: str = ""
    tier: str = ""
    seen: float = 0.0
    admitted: int = 0

    def add(self, line: Line, ended: float) -> None:
        self.requests += 1
        self.admitted += line["attempts"] > 0  # Envoy's router comes after all that refuses
        self.prompt_tokens += line["prompt_tokens"] or 0
        self.completion_tokens += line["completion_tokens"] or 0
        if line["cost_usd"] is not None:
            self.cost_nano_usd = (self.cost_nano_usd or 0) + round(line["cost_usd"] * 1e9)
        if ended >= self.seen:
            self.team, self.tier, self.seen = line["team"] or "", line["tier"] or "", ended


@dataclass(slots=True)
class Step:
    """One model's traffic in one step, by the end of requests."""

    requests: int = 0
    failed: int = 0
    refused: int = 0
    tokens: int = 0
    ttft_ms: float = 0.0
    timed: int = 0

    def add(self, line: Line) -> None:
        self.requests += 1
        self.failed += line["status"] >= 500 or line["error_code"] == UPSTREAM_ERROR
        self.refused += 400 <= line["status"] < 500
        self.tokens += (line["prompt_tokens"] or 0) + (line["completion_tokens"] or 0)
        if line["stream"] and line["ttft_ms"] is not None:
            self.ttft_ms += line["ttft_ms"]
            self.timed += 1


@dataclass(slots=True)
class ErrorGroup:
    """A group of equal errors: times of the first and the last, and their number."""

    first: float
    last: float
    times: int = 0

    def add(self, ended: float) -> None:
        self.first, self.last, self.times = min(self.first, ended), max(self.last, ended), self.times + 1


@dataclass(slots=True)
class Counted:
    """Sums of lines: `days` by (day, user, key), `steps` by (start, model), `mistakes` by (status, code, model, user,
    limit). `unread` counts lines that are not records."""

    days: dict[tuple[str, str, str], Day] = field(default_factory=lambda: defaultdict(Day))
    steps: dict[tuple[int, str], Step] = field(default_factory=lambda: defaultdict(Step))
    mistakes: dict[tuple[int, str, str, str, str], ErrorGroup] = field(default_factory=dict)
    unread: int = 0


def counted(lines: Iterable[bytes], model: ModelLabel, since: float) -> Counted:
    """Sums of the requests to models among `lines`. Steps and mistakes are of those that ended after `since`."""
    sums = Counted()
    for text in lines:
        try:
            _count(sums, json.loads(text), model, since)
        except (ValueError, KeyError, TypeError, AttributeError):
            sums.unread += 1
    return sums


def _count(sums: Counted, line: Line, model: ModelLabel, since: float) -> None:
    if line["endpoint"] not in _ENDPOINTS:
        return
    ended = datetime.fromisoformat(line["time"]).timestamp() + line["duration_ms"] / 1e3
    if line["user_id"]:
        sums.days[line["time"][:10], line["user_id"], line["key_id"] or ""].add(line, ended)
    if ended < since:
        return
    status, name = line["status"], model(line["model"], 200 <= line["status"] < 300)
    sums.steps[int(ended) // STEP_S * STEP_S, name].add(line)
    if status >= 400 or line["error_code"]:
        alike = (status, line["error_code"] or "", name, line["user_id"] or "", line["limited_by"] or "")
        sums.mistakes.setdefault(alike, ErrorGroup(ended, ended)).add(ended)
