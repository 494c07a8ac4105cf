"""Times and periods as people write them."""

from datetime import UTC, datetime, timedelta

import pytest

from gatehouse.cli.refused import RefusedError
from gatehouse.cli.times import begin, end, instant, seconds, shown

NOW = 1_767_268_800.0  # 2026-01-01T12:00:00Z
TODAY = datetime(2026, 11, 20, 15, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"), [("0s", 0), ("30m", 1800), ("24h", 86400), ("90d", 7_776_000), ("2w", 1_209_600)]
)
def test_a_duration_has_a_unit(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "90", "d", "-1d", "1.5h", "90 d", "90days", "9999999d"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(RefusedError, match="no duration such as 90d"):
        seconds(text)


def test_an_end_is_a_duration_from_now_or_a_day_to_its_end() -> None:
    assert instant("90d", NOW) == NOW + 7_776_000
    assert shown(instant("2027-01-01", NOW)) == "2027-01-01T23:59:59Z"
    assert shown(instant("2027-01-01T10:00:00+02:00", NOW)) == "2027-01-01T08:00:00Z"


@pytest.mark.parametrize("text", ["soon", "2027-13-01", "", "01.01.2027"])
def test_an_end_that_is_neither_is_refused(text: str) -> None:
    with pytest.raises(RefusedError, match="neither a duration such as 90d nor a day such as 2027-01-01"):
        instant(text, NOW)


@pytest.mark.parametrize("text", ["2026-01-01T11:59:59", "2025-12-31", "0s"])
def test_an_end_in_the_past_is_a_mistake(text: str) -> None:
    with pytest.raises(RefusedError, match="is in the past"):
        instant(text, NOW)


def test_a_day_is_meant_from_its_first_moment_to_its_last() -> None:
    assert begin("2026-11-01", TODAY) == datetime(2026, 11, 1, tzinfo=UTC)
    assert end("2026-11-01", TODAY) == datetime(2026, 11, 2, tzinfo=UTC)


@pytest.mark.parametrize("text", ["2026-11-01T08:00", "2026-11-01T08:00Z", "2026-11-01T10:00+02:00"])
def test_a_time_is_utc_unless_it_says_otherwise(text: str) -> None:
    assert begin(text, TODAY) == end(text, TODAY) == datetime(2026, 11, 1, 8, tzinfo=UTC)


def test_a_duration_is_so_long_ago() -> None:
    assert begin("7d", TODAY) == end(" 7d ", TODAY) == TODAY - timedelta(days=7)


@pytest.mark.parametrize("text", ["", "soon", "-7d", "2026-02-30", "999999w", "9999-12-31"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(RefusedError, match="neither a day such as"):
        end(text, TODAY)
