"""What limits of a day and more had counted, read from the tally as accesslog_service writes it."""

import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from gatehouse.config.model import Config
from gatehouse.files import tally_file
from gatehouse.files.tally_file import Used
from portal_service.tally.counting import Counted, Day
from portal_service.tally.usage_db import UsageDb, add
from ratelimit_service.from_tally import charges, restored
from ratelimit_service.plan import Plans

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
TODAY, YESTERDAY, LONG_AGO = date(2026, 11, 24), date(2026, 11, 23), date(2026, 10, 26)


def plans(**of_a_model: int) -> Plans:
    free: dict[str, object] = {
        "algorithm": "fixed_window",
        "tokens_per_day": 1_000,
        "tokens_per_minute": 10,
        "requests_per_day": 5,
        "budget_usd_per_month": 1,
        "models": {"m": of_a_model} if of_a_model else {},
    }
    teams = {"search": {"limits": {"algorithm": "fixed_window", "output_tokens_per_month": 10_000}}}
    return Plans(Config.model_validate({"rate_limits": {"free": free}, "teams": teams}))


def used(day: date, user: str = "ann", key: str = "k1", cost_nano_usd: int | None = 1_000_001) -> Used:
    return Used(day, user, "search", "free", key, 30, 12, cost_nano_usd, admitted=2)


def found(*rows: Used) -> dict[str, int]:
    return {f"{c.key} {c.limit.period_s // 86_400}": c.hits for c in charges(plans(), rows, NOW)}


def test_keys_of_a_user_and_users_of_a_team_add_up() -> None:
    assert found(used(TODAY), used(TODAY, key="k2"), used(TODAY, user="bob")) == {
        "{u:ann}t 1": 84,
        "{u:ann}r 1": 4,
        "{u:ann}b 30": 2002,
        "{u:bob}t 1": 42,
        "{u:bob}r 1": 2,
        "{u:bob}b 30": 1001,
        "{t:search}o 30": 36,
    }


def test_what_has_left_its_window_does_not_count() -> None:
    assert found(used(YESTERDAY)) == {"{u:ann}b 30": 1001, "{t:search}o 30": 12}
    assert found(used(LONG_AGO)) == {}


def test_without_a_price_there_is_nothing_to_charge() -> None:
    assert "{u:ann}b 30" not in found(used(TODAY, cost_nano_usd=None))


@pytest.mark.asyncio
async def test_it_reads_what_accesslog_writes(tmp_path: Path) -> None:
    book, sums = UsageDb(tmp_path / tally_file.NAME), Counted()
    for name in ("a.log", "b.log"):
        sums.days["2026-11-24", "ann", "k1"] = Day(3, 30, 12, 1_000_001, "search", "free", 1.0, admitted=2)
        book.open()
        with book.writing() as writer:
            add(writer, name, sums)
        book.close()
    whole = Used(TODAY, "ann", "search", "free", "k1", 60, 24, 2_000_002, 4)
    assert tally_file.used_since(tmp_path / tally_file.NAME, LONG_AGO) == [whole]
    found = await restored(plans(), tmp_path, never, at_noon)
    hits = {charge.key: charge.hits for charge in found}
    assert (hits["{u:ann}b"], hits["{u:ann}r"]) == (2001, 4)


def never() -> None:
    raise AssertionError("everything is known")


@pytest.mark.asyncio
async def test_where_there_is_no_tally_there_is_nothing_to_restore_and_a_damaged_one_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []
    assert await restored(plans(), tmp_path, never) == []
    assert not caplog.records
    (tmp_path / tally_file.NAME).write_bytes(b"this is no database" * 100)
    assert await restored(plans(), tmp_path, lambda: told.append(1)) == []
    assert "can't be restored" in caplog.text
    assert told == [1]


def tally(directory: Path, *, used: bool) -> None:
    book, sums = UsageDb(directory / tally_file.NAME), Counted()
    if used:
        sums.days["2026-11-24", "ann", "k1"] = Day(3, 30, 12, 1_000_001, "search", "free", 1.0, admitted=2)
    book.open()
    with book.writing() as writer:
        add(writer, "a.log", sums)
    book.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("used", [False, True])
async def test_limits_that_the_tally_can_not_tell_of_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, used: bool
) -> None:
    told: list[int] = []
    tally(tmp_path, used=used)
    await restored(plans(tokens_per_day=5, tokens_per_minute=5), tmp_path, lambda: told.append(1), at_noon)
    assert told == [1] * used
    assert ("start at zero: model_tokens_per_day" in caplog.text) == used


def at_noon() -> int:
    return int(NOW.timestamp() * 1000)


@pytest.mark.asyncio
async def test_a_tally_of_an_older_version_is_read_and_brought_up_to_date(tmp_path: Path) -> None:
    tally(tmp_path, used=True)
    path = tmp_path / tally_file.NAME
    with closing(sqlite3.connect(path)) as old:
        old.execute("ALTER TABLE days DROP COLUMN admitted")
    assert [row.admitted for row in tally_file.used_since(path, LONG_AGO)] == [0]
    tally(tmp_path, used=True)
    assert [(row.admitted, row.input_tokens) for row in tally_file.used_since(path, LONG_AGO)] == [(2, 60)]
