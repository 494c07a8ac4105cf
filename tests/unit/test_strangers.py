"""Refusals of unknown callers are counted beyond a rate; what known callers do is always written."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from accesslog_service import strangers
from accesslog_service.record import Record
from accesslog_service.strangers import AT_ONCE, CALM_S, PER_SECOND, Strangers
from gatehouse.contract.access_log import STRANGERS_LOGGED
from testkit.request_logs import record

RECORD = record(0.25)
REFUSED = replace(RECORD, user_id=None, status=401)
UNKNOWN = {"healthy": replace(RECORD, user_id=None, status=200), "failed": replace(RECORD, user_id=None, status=503)}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def written(records: Sequence[Record], clock: Clock, counted: list[int]) -> int:
    return len(Strangers(counted.append, clock).worth_writing(records))


def test_so_many_are_written_and_the_others_counted() -> None:
    counted: list[int] = []
    assert written([REFUSED] * 5000, Clock(), counted) == AT_ONCE
    assert sum(counted) == 5000 - AT_ONCE


def test_known_callers_are_written_whatever_strangers_do() -> None:
    counted: list[int] = []
    mixed = [REFUSED, RECORD] * 5000
    kept = Strangers(counted.append, Clock()).worth_writing(mixed)
    assert sum(record.user_id is not None for record in kept) == 5000
    assert sum(counted) == 5000 - AT_ONCE


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_is_no_refusal_is_written(kind: str) -> None:
    assert written([UNKNOWN[kind]] * 5000, Clock(), []) == 5000


def test_there_is_room_again_with_time() -> None:
    clock, counted = Clock(), list[int]()
    log = Strangers(counted.append, clock)
    log.worth_writing([REFUSED] * 5000)
    clock.now += 3
    assert len(log.worth_writing([REFUSED] * 5000)) == 3 * PER_SECOND


@pytest.mark.asyncio
async def test_envoy_leaves_them_out_meanwhile_and_writes_them_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "LOOK_S", 0.01)
    clock, asked = Clock(), list[str]()

    async def post(path: str) -> None:
        asked.append(path.removeprefix(f"/runtime_modify?{STRANGERS_LOGGED}="))

    log = Strangers(lambda _: None, clock)
    telling = asyncio.create_task(log.tell(post))
    await asyncio.sleep(0.05)
    assert asked == []
    log.worth_writing([REFUSED] * 5000)
    await asyncio.sleep(0.1)
    assert asked == ["0"]
    clock.now += CALM_S
    await asyncio.sleep(0.1)
    assert asked == ["0", "100"]
    telling.cancel()
