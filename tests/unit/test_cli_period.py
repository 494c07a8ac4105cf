"""Periods as people write them."""

from datetime import UTC, datetime, timedelta

import pytest

from gatehouse.cli.period import begin, end
from gatehouse.cli.refused import RefusedError

NOW = datetime(2026, 11, 20, 15, 30, tzinfo=UTC)


def test_a_day_is_meant_from_its_first_moment_to_its_last() -> None:
    assert begin("2026-11-01", NOW) == datetime(2026, 11, 1, tzinfo=UTC)
    assert end("2026-11-01", NOW) == datetime(2026, 11, 2, tzinfo=UTC)


@pytest.mark.parametrize("text", ["2026-11-01T08:00", "2026-11-01T08:00Z", "2026-11-01T10:00+02:00"])
def test_a_time_is_utc_unless_it_says_otherwise(text: str) -> None:
    assert begin(text, NOW) == end(text, NOW) == datetime(2026, 11, 1, 8, tzinfo=UTC)


def test_a_duration_is_so_long_ago() -> None:
    assert begin("7d", NOW) == end(" 7d ", NOW) == NOW - timedelta(days=7)


@pytest.mark.parametrize("text", ["", "soon", "-7d", "2026-02-30", "999999w", "9999-12-31"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(RefusedError, match="neither a day such as"):
        end(text, NOW)
