"""Limits of a key as one text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.config.model import MEASURES, PERIODS, Limits
from gatehouse.keys.limits_json import canonical, parsed

AMOUNTS = [f"{measure}_per_{period}" for measure in MEASURES for period in PERIODS]
anything = st.fixed_dictionaries(
    {},
    optional={
        **{name: st.integers(1, 2**40 - 1) for name in AMOUNTS},
        "algorithm": st.sampled_from(["sliding_window", "fixed_window", "token_bucket"]),
        "concurrent_requests": st.integers(1, 100),
        "budget_usd_per_month": st.integers(1, 1000) | st.floats(0.01, 1000),
        "shadow": st.booleans(),
    },
).map(Limits.model_validate)


@given(anything)
def test_what_is_written_is_read_again(limits: Limits) -> None:
    text = canonical(limits)
    assert canonical(parsed(text)) == text
    assert parsed(text) == (limits if text else Limits())


def test_one_set_of_limits_has_one_text() -> None:
    one = Limits.model_validate({"requests_per_minute": 5, "budget_usd_per_month": 5, "algorithm": "sliding_window"})
    other = Limits.model_validate({"budget_usd_per_month": 5.0, "requests_per_minute": 5, "shadow": False})
    assert canonical(one) == canonical(other) == '{"budget_usd_per_month":5.0,"requests_per_minute":5}'


@pytest.mark.parametrize("limits", [None, Limits(), Limits(algorithm="token_bucket"), Limits(shadow=True)])
def test_no_limit_has_no_text(limits: Limits | None) -> None:
    assert canonical(limits) == ""


@pytest.mark.parametrize("text", ["{", "null", "[]", '{"requests_per_day":0}', '{"requests_per_day":1.5}', '{"a":1}'])
def test_what_is_no_limits_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - pydantic's own, of many kinds
        parsed(text)
