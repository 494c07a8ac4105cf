"""YAML is read as PyYAML's safe loader reads it, event by event, and stricter where that has cost people outages."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.config import places, source
from gatehouse.config.problem import ConfigError
from gatehouse.config.source import MAX_DEPTH, Take, parse
from tests.unit.test_config import MISTAKES, SHORT_FORM, VLLM, faults, read

SCALARS = ["8000", "0x1F", "0b11", "1_000", "1.5", ".inf", "-.INF", "1e3", "true", "No", "~", "null"]
SCALARS += [
    "2027-01-01",
    "2027-01-01T10:00:00Z",
    "text",
    "'8000'",
    '"true"',
    "!!str 8000",
    "!!int '5'",
    "",
    "a=b",
    "<<x",
]


@pytest.mark.parametrize("scalar", SCALARS)
def test_a_scalar_means_what_it_means_to_the_safe_loader(scalar: str) -> None:
    text = f"a: {scalar}\nb: [{scalar}]\n"
    assert parse(text, "x").data == yaml.safe_load(text)


NAMES = st.text("abcxyz", min_size=1, max_size=3).filter(lambda name: name not in ("y", "n"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
)


@given(VALUES, st.sampled_from([None, True, False]))
def test_a_document_is_read_as_the_safe_loader_reads_it(value: object, flow: bool | None) -> None:
    text = yaml.safe_dump(value, default_flow_style=flow)
    assert parse(text, "x").data == parse(text.encode(), "x").data == yaml.safe_load(text)


def test_anchors_and_merges_are_expanded_and_what_stands_there_itself_wins() -> None:
    text = """
base: &base {tier: premium, models: [a, b]}
more: &more {tier: free, team: search}
alice: {<<: *base, tier: standard}
list: [*base, &x 5, *x]
"""
    assert parse(text, "x").data == yaml.safe_load(text)


def test_of_several_mappings_to_merge_the_first_wins() -> None:
    """https://yaml.org/type/merge.html"""
    text = "a: &a {x: 1, y: 1}\nb: &b {x: 2, z: 2}\nc: {<<: [*a, *b], y: 3}\n"
    assert parse(text, "x").data["c"] == {"x": 1, "y": 3, "z": 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\n---\nb: 2\n", "x:2: only one document is allowed"),
        ("a: *none\n", "x:1: a: there is no earlier anchor &none"),
        ("a: {<<: 5}\n", "x:1: a.<<: must be a mapping, or a list of mappings"),
        ("a: 1\n? [b]\n: 2\n", "x:2: a name must be text"),
        ("a: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "is nested too deeply"),
        ("a: !!bool maybe\n", "x:1: a: this value can't be read"),
        ("a: 2027-13-45\n", "x:1: a: this value can't be read"),
        ("api_keys:\n  sk-secret-1: {a: {b: 1, b: 2}}\n", "x:2: api_keys.<key>.a: this name is used twice here"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "x")
    assert expected in str(caught.value)


def taken(text: str) -> tuple[object, list[tuple[str, object]]]:
    entries: list[tuple[str, object]] = []
    take: Take = lambda name, value: entries.append((name, value))  # noqa: E731 - typed
    return parse(text, "x", {("keys",): take}).data, entries


def test_a_taken_mapping_stays_empty_and_its_entries_are_those_it_would_hold() -> None:
    text = "more: &more {c: {x: 3}, a: {x: 4}}\nkeys:\n  a: {x: 1}\n  <<: *more\n  b: null\n"
    data, entries = taken(text)
    assert data == {"more": {"c": {"x": 3}, "a": {"x": 4}}, "keys": {}}
    assert dict(entries) == yaml.safe_load(text)["keys"]
    assert len(entries) == 3


def test_a_taken_name_that_stands_twice_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError) as caught:
        taken("keys:\n  sk-secret-1: {x: 1}\n  sk-secret-1: {x: {a: 1}}\n")
    assert str(caught.value) == "x:3: keys: this name is used twice here; keep one of the two"


def test_places_are_lines_also_behind_aliases_and_merges() -> None:
    text = "base: &base\n  a: 1\n  b: [x,\n    y]\nuser:\n  <<: *base\n  c: 2\nlist:\n- *base\n- d: 3\n"
    found = parse(text, "x").places(
        [("user", "b", 1), ("user", "c"), ("list", 1, "d"), ("list", 0, "a"), ("none", "x")]
    )
    paths = [
        ("user", "b", 1),
        ("user", "b"),
        ("user", "c"),
        ("list", 1, "d"),
        ("list", 0, "a"),
        ("user",),
        ("none", "x"),
    ]
    assert [found.of(path) for path in paths] == [4, 3, 7, 10, 2, 5, 1]


def test_without_libyaml_everything_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read(tmp_path, SHORT_FORM)
    monkeypatch.setattr(yaml, "__with_libyaml__", False)
    assert read(tmp_path, SHORT_FORM) == expected
    for text, said in MISTAKES:
        assert said in faults(tmp_path, text)


def test_a_name_merged_into_many_keys_counts_as_often_as_it_is_used() -> None:
    """Sharing makes an alias cheap to hold, but what is built from it is not shared."""
    text = "a: &a [" + "x, " * 999 + "x]\nb: [" + "*a, " * 1000 + "*a]\n"
    with pytest.raises(ConfigError, match="aliases expand to more"):
        parse(text, "x")
    assert source.MAX_NODES == 1_000_000


def test_a_document_that_is_long_without_aliases_is_read(tmp_path: Path) -> None:
    keys = "".join(f"  sk-long-document-{i}: {{user_id: u{i}, tier: t, models: [a, b, c]}}\n" for i in range(2000))
    assert len(read(tmp_path, VLLM + "api_keys:\n" + keys).api_keys) == 2000


def test_a_fault_in_an_alias_says_where_it_was_written(tmp_path: Path) -> None:
    text = VLLM + "api_keys:\n  sk-secret-1: &a\n    user_id: a\n    teir: b\n  sk-secret-2: *a\n"
    assert faults(tmp_path, text).count("gatehouse.yaml:5: api_keys.<key>.teir: unknown field") == 2


def test_places_are_found_in_an_empty_text() -> None:
    assert places.locate("", [("a",)]).of(("a",)) is None
