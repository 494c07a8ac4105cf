"""Patterns of model names, as Python and RE2 read them."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.contract.model_patterns import MAX_SIZE, is_everything, is_wild, matcher, regex, size

LETTERS = "ab-.[]()|^$\\{}+#! \n\t_é"
PATTERN = st.text(LETTERS + "*?", max_size=8)


def may_use(patterns: Sequence[str], model: str) -> bool:
    r"""As `matcher` says; and as RE2 finds the expression, in which `$` is the very end (Python's `\Z`)."""
    allowed = matcher(patterns)(model)
    if patterns:
        found = re.search(re.sub(r"(?<!\\)((?:\\\\)*)\$", r"\1\\Z", regex(patterns)), model)
        assert (found is not None) == allowed
    return allowed


def test_patterns_become_one_expression_that_needs_no_more_than_it_must() -> None:
    assert regex(["llama-*", "gpt-4o"]) == r"^(?s:gpt\-4o$|llama\-)"
    assert regex(["*-chat", "gpt-?", "a*b*"]) == r"^(?s:.*\-chat$|a.*b|gpt\-.$)"


@given(st.lists(PATTERN, max_size=3), st.text(LETTERS, max_size=8))
def test_patterns_mean_what_a_shell_means_by_them(patterns: list[str], model: str) -> None:
    literal_brackets = [pattern.replace("[", "[[]") for pattern in patterns]
    assert may_use(patterns, model) == any(fnmatchcase(model, pattern) for pattern in literal_brackets)


@given(PATTERN, st.data())
def test_every_name_made_from_a_pattern_matches_it(pattern: str, data: st.DataObject) -> None:
    fill = {"*": st.text(LETTERS, max_size=4), "?": st.sampled_from(LETTERS)}
    assert may_use(["other", pattern], "".join(data.draw(fill[c]) if c in fill else c for c in pattern))


@given(st.text(LETTERS, min_size=1, max_size=8), st.text(LETTERS, min_size=1, max_size=4))
def test_a_name_without_wildcards_matches_itself_and_nothing_longer(model: str, more: str) -> None:
    assert may_use([model], model)
    assert not may_use([model], model + more)
    assert not may_use([model], more + model)
    assert not may_use([model], model[:-1])


@given(st.text(LETTERS, min_size=1))
def test_no_patterns_match_nothing(model: str) -> None:
    assert not may_use([], model)


@pytest.mark.parametrize(
    ("pattern", "wild", "everything"),
    [
        ("*", True, True),
        ("**", True, True),
        ("?*", True, False),
        ("a*", True, False),
        ("a", False, False),
        ("", False, False),
    ],
)
def test_what_stands_for_many_and_what_for_all(pattern: str, wild: bool, everything: bool) -> None:
    assert (is_wild(pattern), is_everything(pattern)) == (wild, everything)


def test_a_common_beginning_takes_its_room_once() -> None:
    many = [f"meta-llama/Llama-3.{i}*" for i in range(9)]
    assert size(many) < size(["x" * 60 + "*"]) < MAX_SIZE < size([f"{letter}-llama-3*" for letter in "abcdefghijkl"])
