"""What a soak is for: its invariants are violated by what is wrong, and by nothing that is right."""

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.soak.callers import CANARY, KINDS, PER_MINUTE, REVOCABLE, Kind
from tests.soak.ledger import LATE_S, LOSSES, LOST, OWN_ERROR, TWICE, UNCOUNTED, UNRECORDED, Ledger, Outcome, Period
from tests.soak.load import Answer
from tests.soak.report import JUDGED_FROM_S, Report, alike
from tests.soak.samples import Sample, slope
from tests.soak.tail import Tail

NOW = 1_764_000_000.0
LATER = NOW + 10 * LATE_S
CHAT, STREAM, WRONG_KEY = (
    next(each for each in KINDS if each.name == name) for name in ("chat", "chat stream", "wrong key")
)
FIXED, SLIDING = (next(each for each in KINDS if each.user == user) for user in ("fixed", "sliding"))
FAULT = "what fails"


def record(number: int, status: int = 200, user: str | None = "open", code: str | None = None) -> dict[str, Any]:
    time = datetime.fromtimestamp(NOW, UTC).isoformat()
    about = {"status": status, "user_id": user, "error_code": code, "duration_ms": 5.0, "time": time}
    return {"user_agent": f"soak/{number}", **about}


def outcome(number: int = 1, heard: str = "200", kind: Kind = CHAT, at: float = NOW, **about: Any) -> Outcome:
    return Outcome(number, kind, at, at + 0.1, heard, **about)


def told(
    heard: Outcome, arrivals: int = 1, records: tuple[dict[str, Any], ...] = (), allowed: frozenset[str] = frozenset()
) -> Ledger:
    """One request, as all three saw it, and judged."""
    ledger = Ledger()
    ledger.periods.append(Period(FAULT, NOW - 1, NOW + 1, allowed))
    ledger.heard(heard)
    for _ in range(arrivals):
        ledger.arrived(heard.number)
    for each in records:
        ledger.recorded(each)
    ledger.settle(LATER)
    return ledger


def found(ledger: Ledger) -> list[str]:
    assert ledger.open == 0
    return [each.invariant for each in ledger.violations]


def test_what_agrees_is_no_violation() -> None:
    assert found(told(outcome(), 1, (record(1),))) == []
    assert found(told(outcome(), 2, (record(1),))) == [], "the gateway tried again"
    assert found(told(outcome(heard="401", kind=WRONG_KEY), 0)) == []
    assert found(told(outcome(heard="429", kind=FIXED), 0, (record(1, 429, "fixed", "rate_limit_exceeded"),))) == []
    assert found(told(outcome(heard="503"), 0, (record(1, 503),), frozenset({"503"}))) == []


def test_where_the_client_failed_its_record_is_judged() -> None:
    limited = outcome(heard=OWN_ERROR, kind=FIXED)
    assert found(told(limited, 0, (record(1, 429, "fixed", "rate_limit_exceeded"),))) == []
    assert found(told(outcome(heard=OWN_ERROR, kind=WRONG_KEY), 0)) == [], "not all are recorded"
    assert found(told(outcome(heard=OWN_ERROR), 0, (record(1, 503),), frozenset({"503"}))) == []
    assert found(told(outcome(heard=OWN_ERROR), 0, (record(1, 503),))) == ["answers"]
    assert found(told(outcome(heard=OWN_ERROR), 1, (record(1),))) == ["answers"], "200 needs all of the body"
    assert found(told(outcome(heard=OWN_ERROR), 0)) == ["I2", "answers"]
    revoked = replace(FIXED, user=REVOCABLE)
    assert found(told(outcome(heard=OWN_ERROR, kind=revoked), 0, (record(1, 401),))) == ["answers"]


@pytest.mark.parametrize(
    ("invariant", "ledger"),
    [
        ("I1", lambda: told(outcome(), 1)),
        ("I2", lambda: told(outcome(heard="503"), 0, (), frozenset({"503"}))),
        ("I1", lambda: told(outcome(heard="cut"), 1, (), frozenset({"cut"}))),
        ("I1", lambda: told(outcome(heard="401", kind=WRONG_KEY), 1)),
        ("I1", lambda: told(outcome(), 1, (record(1, user=None),))),
        ("I1", lambda: told(outcome(), 1, (record(1, code="invalid_api_key"),))),
        ("I2", lambda: told(outcome(), 1, (record(1), record(1)))),
        ("I2", lambda: told(outcome(), 0, (record(1),))),
        ("I2", lambda: told(outcome(), 1, (record(1, 503),))),
        ("I6", lambda: told(outcome(heard="503", broken="no JSON: <html>"), 0, (record(1, 503),), frozenset({"503"}))),
        ("answers", lambda: told(outcome(heard="503"), 0, (record(1, 503),))),
        ("answers", lambda: told(outcome(heard="cut", kind=STREAM), 1, (record(1),))),
        ("answers", lambda: told(outcome(heard="timed out"), 1, (record(1),))),
    ],
)
def test_what_is_wrong_is_one(invariant: str, ledger: Any) -> None:
    judged = ledger()
    assert invariant in found(judged)
    assert {each.fault for each in judged.violations} == {FAULT}


def test_what_a_fault_may_lose_is_counted() -> None:
    lost = told(outcome(heard="cut"), 1, (), frozenset({"cut", UNRECORDED}))
    assert (found(lost), lost.counts[UNRECORDED]) == ([], 1)
    before = told(outcome(at=NOW - 2.5), 1, (), frozenset({UNRECORDED}))
    assert (found(before), before.counts[UNRECORDED]) == ([], 1)
    twice = told(outcome(), 1, (record(1), record(1)), frozenset({TWICE}))
    assert (found(twice), twice.counts[TWICE]) == ([], 1)


def test_what_a_full_disk_may_lose_is_counted_by_the_gateway() -> None:
    ledger = told(outcome(), 1, (), frozenset({LOST}))
    ledger.lost(0)
    ledger.closed(LATER)
    assert (found(ledger), ledger.counts[LOST]) == (["I2"], 1)
    for total in (3, 5, 1):  # the last is of a gateway that took over
        ledger.lost(total)
    assert ledger.counts[LOSSES] == 6
    ledger.violations.clear()
    ledger.closed(LATER)
    assert found(ledger) == []


def test_a_record_has_its_time() -> None:
    ledger = Ledger()
    ledger.heard(outcome())
    ledger.arrived(1)
    ledger.settle(NOW + LATE_S / 3)
    assert (ledger.violations, ledger.open, ledger.lacking(NOW + LATE_S / 3)) == ([], 1, False)
    assert ledger.lacking(NOW + LATE_S / 1.5)
    ledger.recorded(record(1))
    ledger.settle(NOW + LATE_S / 1.5)
    assert found(ledger) == []


@pytest.mark.parametrize("kind", [FIXED, SLIDING])
@pytest.mark.parametrize(("allowed", "admitted", "expected"), [
    (frozenset(), PER_MINUTE, False),
    (frozenset(), PER_MINUTE + 1, True),
    (frozenset({UNCOUNTED}), 2 * PER_MINUTE, False),
    (frozenset({UNCOUNTED}), 2 * PER_MINUTE + 1, True),
])  # fmt: skip
def test_more_than_the_limit(kind: Kind, allowed: frozenset[str], admitted: int, expected: bool) -> None:
    start, ledger = NOW // 60 * 60 + 1, Ledger()
    ledger.periods.append(Period(FAULT, start, start + 1, allowed))
    for number in range(admitted):
        ledger.heard(outcome(number, kind=kind, at=start + number * 0.1))
    ledger.settle(LATER)
    assert ("I3" in {each.invariant for each in ledger.violations}) == expected


def test_a_revoked_key_is_let_in() -> None:
    revocable = next(each for each in KINDS if each.user == REVOCABLE)
    for heard, expected in (("401", []), ("200", ["I1"])):
        ledger = Ledger()
        ledger.periods.append(Period(FAULT, NOW - 1, NOW + 1, frozenset({f"{REVOCABLE} 401"}), {REVOCABLE: "401"}))
        ledger.heard(outcome(heard=heard, kind=revocable))
        if heard == "200":
            ledger.arrived(1)
            ledger.recorded(record(1))
        ledger.settle(LATER)
        assert found(ledger) == expected


def test_lines_that_are_no_record() -> None:
    ledger = Ledger()
    ledger.line(b'{"user_agent": "soak/1', NOW)
    assert found(ledger) == ["I2"]
    ledger.periods.append(Period(FAULT, NOW, NOW + 1, frozenset({LOST})))
    ledger.line(b'{"user_agent": "soak/1', NOW + 5)
    assert found(ledger) == ["I2", "I2"], "nor may a full disk leave half a line"


def test_secrets_and_memory() -> None:
    ledger = Ledger()
    ledger.wrote("envoy.log", b"all well")
    ledger.grew("authz-0", 99, 100, NOW)
    assert found(ledger) == []
    ledger.wrote("envoy.log", f"key sk-{CANARY}-open".encode())
    ledger.grew("authz-0", 101, 100, NOW)
    assert found(ledger) == ["I4", "I5"]


def test_answers_that_are_none() -> None:
    html, error = Answer(503, {}), Answer(503, {})
    html.took(b"<html>")
    error.took(b'{"error": {"message": "m"}}')
    assert "no JSON" in html.broken(CHAT)
    assert error.broken(CHAT) == ""
    whole, cut = Answer(200, {}), Answer(200, {})
    whole.took(b"data: {}\n\ndata: [DONE]\n\n")
    cut.took(b"data: {}\n\n")
    assert (whole.heard(STREAM), cut.heard(STREAM), whole.broken(STREAM)) == ("200", "cut", "")


def test_every_line_once_whatever_becomes_of_its_file(tmp_path: Path) -> None:
    tail, file = Tail(tmp_path, "*.log*"), tmp_path / "a.log"

    def lines() -> list[bytes]:
        return [line for _, line in tail.lines()]

    file.write_bytes(b"1\n2")
    assert lines() == [b"1"]
    with file.open("ab") as out:
        out.write(b"2\n")
        out.flush()
        assert lines() == [b"22"]
        moved = file.rename(tmp_path / "a.log.1")
        out.write(b"3\nhalf")
        out.flush()
        assert lines() == [b"3"]
        os.truncate(moved, 7)  # half a line was taken back
        assert lines() == []
        out.write(b"33\n")
        out.flush()
        file.write_bytes(b"4\n")
        assert sorted(lines()) == [b"33", b"4"]
        moved.unlink()
        out.write(b"5\n")
        out.flush()
        assert lines() == [b"5"]
    os.truncate(file, 0)
    assert lines() == []
    file.write_bytes(b"6\n")
    assert lines() == [b"6"]
    tail.close()


def life(per_h: float, start: float, pid: int) -> Iterator[Sample]:
    for step in range(60):
        at = start + step * 10
        yield Sample(at, "authz-0", pid, 0, 40 + pid + per_h * at / 3600, 12)


@pytest.mark.parametrize("per_h", [0.0, 5.0])
def test_slopes_are_within_lives(per_h: float) -> None:
    samples = [*life(per_h, NOW, 1), *life(per_h, NOW + 700, 20)]
    report = Report(JUDGED_FROM_S, 1, [], [], {}, [], samples)
    assert report.memory["authz-0"].per_h == pytest.approx(per_h, abs=0.01)
    assert report.memory["authz-0"].lives == 2
    assert report.files["authz-0"].per_h == pytest.approx(0, abs=0.01)
    assert report.good == (per_h == 0.0)
    assert replace(report, seconds=60).good, "too short to be judged"
    assert slope([[(0, 1.0), (10, 2.0)]]) is None


def test_violations_that_differ_in_numbers_are_one_line() -> None:
    ledger = told(outcome(heard="503"), 0, (record(1, 503),))
    ledger.violations.extend(told(outcome(2, heard="503"), 0, (record(2, 503),)).violations)
    assert len(list(alike(ledger.violations))) == 1
