"""The invariants: three accounts of every request (its caller's, the model server's, the request log's) held together.

Nothing here reads a file or asks a process: all is told to the ledger, in any order. What agrees is forgotten; what is
not whole stays until it has had its time.
"""

import json
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.soak.callers import CANARY, FIXED, PER_MINUTE, REVOCABLE, SLIDING, Kind

LATE_S = 60.0
"""After so long a record is missing: Envoy sends them once a second, and reconciliation leaves alone 30 s."""
UNWRITTEN_S = 2.0
"""So long ago what is lost with a process or a disk may have ended: Envoy and receivers write once a second."""
OWN_ERROR = "client's own error"
"""The HTTP/2 client goes on sending a body whose answer has come and ended its stream (RFC 9113, 8.1), and fails. What
it would have heard is in the request log, and is judged in its stead."""
UNRECORDED, LOST, TWICE, UNCOUNTED = "unrecorded", "unrecorded, and counted as lost", "recorded twice", "uncounted"
"""The first where nobody is left to count; the second at most as often as the gateway counts its losses."""
LOSSES = "lost records, as the gateway counts them"
_REFUSED = {"invalid_api_key", "missing_api_key", "model_not_allowed", "rate_limit_exceeded"}
_EARLY = ("401", "429", "503")
"""Answers that need no body, so that they may come before it is sent."""
_STRANGERS = ("nobody", REVOCABLE)
_NOBODY = ("refused", "disconnected", "503")
_MINUTE_S = 60


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a caller saw. `heard` is a status, or a word for what is none: `cut`, `refused`, `disconnected`,
    `timed out`, `hung up`. `broken`: what is wrong with the answer by itself. Times are of time.time()."""

    number: int
    kind: Kind
    began: float
    ended: float
    heard: str
    degraded: bool = False
    broken: str = ""
    told: str = ""


@dataclass(frozen=True, slots=True)
class Period:
    """From a fault's beginning until all must be well again: what else callers may hear, and what accounts may lack.
    `only`: users who must hear nothing but this."""

    name: str
    began: float
    ended: float
    allowed: frozenset[str] = frozenset()
    only: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Violation:
    invariant: str
    fault: str
    text: str


@dataclass(slots=True)
class _Case:
    outcome: Outcome | None = None
    record: Mapping[str, Any] | None = None


class Ledger:
    """Keeps the accounts. `counts` is what is counted and no violation."""

    def __init__(self) -> None:
        self.periods: list[Period] = []
        self.counts: Counter[str] = Counter()
        self.violations: list[Violation] = []
        self._cases: dict[int, _Case] = defaultdict(_Case)
        self._arrivals, self._records = Numbers(), Numbers()
        self._lost = 0.0
        self._admitted: dict[str, list[tuple[float, float]]] = {FIXED: [], SLIDING: []}

    def heard(self, outcome: Outcome) -> None:
        self._cases[outcome.number].outcome = outcome
        self.counts[f"heard {outcome.heard}"] += 1
        if outcome.degraded:
            self.counts["passed without limits, and said so"] += 1
        if outcome.kind.user in self._admitted and outcome.heard == "200" and not outcome.degraded:
            self._admitted[outcome.kind.user].append((outcome.began, outcome.ended))

    def arrived(self, number: int) -> None:
        self._arrivals.add(number)

    def line(self, text: bytes, now: float) -> None:
        """Of the request log."""
        try:
            record = json.loads(text)
        except ValueError:
            self._violated("I2", now, f"a line of the request log is no JSON: {text[:80]!r}…{text[-40:]!r}")
            return
        self.recorded(record)

    def recorded(self, record: Mapping[str, Any]) -> None:
        agent = record["user_agent"] or ""
        if not agent.startswith("soak/"):
            return
        number = int(agent.removeprefix("soak/"))
        if self._records.add(number) == 1:
            self._cases[number].record = record
            return
        if record["status"] == 401:
            return
        when = _ended(record)
        if TWICE in self._allowed(when, when):
            self.counts[TWICE] += 1
        else:
            self._violated("I2", when, f"request {number} is recorded twice")

    def wrote(self, where: str, text: bytes) -> None:
        """What the gateway wrote, or let others read."""
        if CANARY.encode() in text:
            at = text.index(CANARY.encode())
            self._violated("I4", 0, f"{where} has a secret: …{text[max(0, at - 80) : at + 40]!r}")

    def grew(self, process: str, mib: float, bound_mib: float, now: float) -> None:
        if mib > bound_mib:
            self._violated("I5", now, f"{process} holds {mib:.0f} MiB, more than {bound_mib:.0f}")

    def lost(self, total: float) -> None:
        """The gateway's own count of lost records (`api_access_log_lost_total`), which begins anew with a new one."""
        self.counts[LOSSES] += int(total - self._lost if total >= self._lost else total)
        self._lost = total

    def closed(self, now: float) -> None:
        """Nothing more comes: judge what only the end shows."""
        if self.counts[LOST] > self.counts[LOSSES]:
            self._violated("I2", now, f"{self.counts[LOST]} unrecorded, and {self.counts[LOSSES]} counted as lost")

    def lacking(self, now: float, for_s: float = LATE_S / 2) -> bool:
        """Whether any request misses its record for so long; by default, longer than reconciliation waits."""
        waiting = (case.outcome for case in self._cases.values() if case.record is None)
        return any(outcome and _is_recorded(outcome) and now - outcome.ended > for_s for outcome in waiting)

    def settle(self, now: float) -> None:
        """Judge what is whole, and what has had its time."""
        for number, case in list(self._cases.items()):
            if case.outcome is None:
                continue
            if case.record is None and _is_recorded(case.outcome) and now - case.outcome.ended < LATE_S:
                continue
            del self._cases[number]
            self._judge(case.outcome, case.record)
        self._count_admitted(now)

    @property
    def open(self) -> int:
        return len(self._cases)

    def _judge(self, outcome: Outcome, record: Mapping[str, Any] | None) -> None:
        at, who = outcome.ended, f"request {outcome.number} ({outcome.kind.name})"
        allowed = self._allowed(outcome.began, outcome.ended)
        arrived = self._arrivals.count(outcome.number)
        self.counts["requests"] += 1
        heard = _heard(outcome, record)
        for invariant, text in _wrong(outcome, record, arrived):
            self._violated(invariant, at, f"{who} {text}")
        if record is None and _is_recorded(outcome) and heard != "401":
            if may := {UNRECORDED, LOST} & self._allowed(outcome.began, outcome.ended + UNWRITTEN_S):
                self.counts[max(may)] += 1
            elif arrived or outcome.heard.isdigit() or outcome.heard == OWN_ERROR:
                self._violated("I1" if arrived else "I2", at, f"{who} heard {outcome.heard} and is in no record")
        for user, only in self._only(outcome.began):
            if outcome.kind.user == user and heard not in (only, *_NOBODY):
                self._violated("I1", at, f"{who} heard {heard}, where only {only} is right")
        if not {heard, f"{outcome.kind.user} {heard}"} & (outcome.kind.normal | allowed):
            self._violated("answers", at, f"{who} heard {heard} {outcome.told}")

    def _count_admitted(self, now: float) -> None:
        """I3: nobody's requests of any minute that is over are more than the limit, and what faults may add to it."""
        for user, kept in self._admitted.items():
            kept.sort(key=lambda each: each[0])
            over = now - 2 * _MINUTE_S
            for start in _windows(user, kept, over):
                inside = [each for each in kept if start <= each[0] and each[1] < start + _MINUTE_S]
                slack = PER_MINUTE if UNCOUNTED in self._allowed(start - _MINUTE_S, start + _MINUTE_S) else 0
                if len(inside) > PER_MINUTE + slack:
                    text = f"{user}: {len(inside)} in the minute from {start:.1f}, more than {PER_MINUTE} + {slack}"
                    self._violated("I3", start, text)
                self.counts["minutes of limits"] += 1
            self._admitted[user] = kept[bisect_left(kept, over, key=lambda each: each[0]) :]

    def _violated(self, invariant: str, at: float, text: str) -> None:
        names = [period.name for period in self.periods if period.began - 1 <= at <= period.ended + _MINUTE_S]
        self.violations.append(Violation(invariant, names[-1] if names else "-", text))

    def _allowed(self, began: float, ended: float) -> frozenset[str]:
        met = [period.allowed for period in self.periods if period.began <= ended and began <= period.ended]
        return frozenset().union(*met)

    def _only(self, began: float) -> Iterator[tuple[str, str]]:
        for period in self.periods:
            if period.began <= began <= period.ended:
                yield from period.only.items()


class Numbers:
    """How often each number came; a byte for each."""

    def __init__(self) -> None:
        self._seen = bytearray()

    def add(self, number: int) -> int:
        if number >= len(self._seen):
            self._seen.extend(bytes(number + 1 - len(self._seen)))
        self._seen[number] = min(255, self._seen[number] + 1)
        return self._seen[number]

    def count(self, number: int) -> int:
        return self._seen[number] if number < len(self._seen) else 0


def _is_recorded(outcome: Outcome) -> bool:
    """Refusals of strangers beyond a rate are counted, not recorded; who met nobody can not be."""
    return outcome.heard not in ("401", "refused")


def _heard(outcome: Outcome, record: Mapping[str, Any] | None) -> str:
    """What it heard, or would have, had its client not failed: what is recorded, and a stranger else 401."""
    if outcome.heard != OWN_ERROR:
        return outcome.heard
    if record is None:
        return "401" if outcome.kind.user in _STRANGERS else OWN_ERROR
    early = str(record["status"])
    return early if early in _EARLY else OWN_ERROR


def _wrong(outcome: Outcome, record: Mapping[str, Any] | None, arrived: int) -> Iterator[tuple[str, str]]:
    """What can not be right whatever has failed."""
    if outcome.broken:
        yield "I6", f"heard {outcome.heard}: {outcome.broken}"
    if arrived and outcome.kind.user == "nobody":
        yield "I1", "reached the model server with a wrong key"
    if arrived and outcome.heard in ("401", "403", "429"):
        yield "I1", f"was refused with {outcome.heard} and reached the model server"
    if outcome.heard == "200" and not arrived:
        yield "I2", "was answered 200 and never reached the model server"
    if record is None:
        return
    if arrived and (record["user_id"] is None or record["error_code"] in _REFUSED):
        yield "I1", f"reached the model server; its record says {record['user_id']}, {record['error_code']}"
    if record["status"] == 200 and not arrived:
        yield "I2", "is recorded as 200 and never reached the model server"
    if outcome.heard.isdigit() and record["status"] != int(outcome.heard):
        yield "I2", f"heard {outcome.heard}, and its record says {record['status']}"


def _ended(record: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(record["time"]).timestamp() + float(record["duration_ms"]) / 1000


def _windows(user: str, kept: Iterable[tuple[float, float]], over: float) -> Iterator[float]:
    """Starts of the minutes to look at: those of the clock, or one that begins with each request."""
    began = [start for start, _ in kept if start < over]
    if user == SLIDING:
        return iter(began)
    return iter(sorted({start // _MINUTE_S * _MINUTE_S for start in began}))


def broken_json(body: bytes) -> str:
    """What is wrong with a body that has to be JSON; "" when nothing is."""
    try:
        json.loads(body)
    except ValueError:
        return f"no JSON: {body[:80]!r}"
    return ""
