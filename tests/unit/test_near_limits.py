"""Whose limits are nearly used up."""

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gatehouse.contract.labels import Names
from portal_service import near_limits, teams
from portal_service.limits_left import LimiterUnavailableError
from portal_service.near_limits import NearLimits
from portal_service.tally.follow import Follower
from portal_service.tally.usage_db import UsageDb
from tests.unit.test_tally import ONE

pytestmark = pytest.mark.asyncio


class Limiter:
    """Answers for users as told; who is not known can't be told of. It notes who is asked for."""

    def __init__(self, **used: float) -> None:
        self._used = used
        self.asked: list[tuple[str, ...]] = []
        self.delay_s = 0.0

    async def of(self, *who: str, **_: str) -> dict[str, Any]:
        self.asked.append(who)
        await asyncio.sleep(self.delay_s)
        if who[0] not in self._used:
            raise LimiterUnavailableError
        team = {"name": "team_tokens_per_day", "scope": "team", "limit": 10, "used": 9, "reset_s": 60.0}
        own = {"name": "requests_per_minute", "scope": "tier", "limit": 100, "used": self._used[who[0]]}
        return {"limits": [own, team] if who[1] else [own]}


@pytest.fixture
def book(tmp_path: Path) -> UsageDb:
    now = datetime.now(UTC)
    lines = [replace(ONE, time=now, user_id=user, team=None).line() for user in ("half", "little", "unknown")]
    lines += [replace(ONE, time=now, user_id=user, team="search").line() for user in ("full", "mate")]
    (tmp_path / f"requests_{now.date()}.log").write_bytes(b"".join(lines))
    book = UsageDb(tmp_path / "tally.sqlite")
    Follower(tmp_path, book, Names(()).label).catch_up()
    return book


async def test_limits_half_used_or_more_are_told_the_fullest_first(book: UsageDb) -> None:
    limiter = Limiter(half=50, little=49, full=120, mate=1)
    found = await NearLimits(book, limiter).now()  # type: ignore[arg-type]
    told = [(near.holder, near.name, near.share) for near in found]
    assert told == [
        ("full", "requests_per_minute", 1.2),
        ("search", "team_tokens_per_day", 0.9),
        ("half", "requests_per_minute", 0.5),
    ]
    assert ("full", "search", "standard", "k1", "") in limiter.asked
    text = near_limits.exposition(found).decode()
    assert 'api_limit_used_ratio{holder="search",limit="team_tokens_per_day",scope="team"} 0.9' in text


async def test_asking_often_asks_the_limiter_once(book: UsageDb) -> None:
    limiter = Limiter(half=50)
    near = NearLimits(book, limiter)  # type: ignore[arg-type]
    await asyncio.gather(*(near.now() for _ in range(20)))
    assert len(limiter.asked) == 5


async def test_a_limiter_that_hangs_holds_nobody_up(book: UsageDb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_limits, "LONGEST_S", 0.05)
    limiter = Limiter(half=50)
    limiter.delay_s = 30
    started = time.monotonic()
    assert await NearLimits(book, limiter).now() == []  # type: ignore[arg-type]
    assert time.monotonic() - started < 5


async def test_nobody_is_told_of_without_a_tally(tmp_path: Path) -> None:
    missing = UsageDb(tmp_path / "none.sqlite")
    assert await NearLimits(missing, Limiter()).now() == []  # type: ignore[arg-type]
    assert near_limits.exposition([]) == b""
    assert teams.exposition(missing, datetime.now(UTC).date()) == b""


async def test_users_are_told_with_their_teams(book: UsageDb) -> None:
    text = teams.exposition(book, datetime.now(UTC).date()).decode()
    assert 'api_user_info{team="search",user="full"} 1.0' in text
    assert "half" not in text, "has no team"
