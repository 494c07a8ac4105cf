"""What a request asks for is read whatever stands there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.contract.asks import MAX_NUMBER, Asks, parsed

numbers = st.integers(0, MAX_NUMBER)


@given(st.none() | numbers, numbers, numbers, numbers)
def test_what_is_written_is_read(most: int | None, choices: int, size: int, images: int) -> None:
    text = f"{'-' if most is None else most}/{choices}/{size}/{images}"
    assert parsed(text) == Asks(most, choices, size, images)


@pytest.mark.parametrize("digits", ["9" * 13, "1" + "0" * 12, "9" * 5000])
def test_a_longer_number_is_the_largest(digits: str) -> None:
    assert parsed(f"{digits}/1/8/0") == Asks(MAX_NUMBER, 1, 8, 0)
    assert parsed(f"{digits}/{digits}/{digits}/{digits}") == Asks(*[MAX_NUMBER] * 4)


NO_NUMBERS = ["-1", "+1", "1.5", "1e3", " 1", "1\n", "0x10", "²", "١", "1_000", "true", "null", ""]


@pytest.mark.parametrize("text", NO_NUMBERS)
@pytest.mark.parametrize("place", range(4))
def test_what_is_no_plain_number_says_nothing(place: int, text: str) -> None:
    parts = ["300", "1", "1240", "0"]
    parts[place] = text
    assert parsed("/".join(parts)) is None


@pytest.mark.parametrize("text", ["", "-", "300", "1/2/3", "1/2/3/4/5", "1/-/3/4", "/".join("12345") * 900])
def test_another_shape_says_nothing(text: str) -> None:
    assert parsed(text) is None


@given(st.text())
def test_no_text_is_too_odd(text: str) -> None:
    assert parsed(text) is None or text.count("/") == 3
