"""A minted key can be told from a mistyped one by its looks alone."""

import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.keys.format import Kind, kind_of, mint

PREFIXES = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,31}", fullmatch=True)
PRINTABLE = [chr(code) for code in range(0x20, 0x7F)]
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def test_a_minted_key_has_the_documented_parts() -> None:
    minted = mint("gh")
    match = re.fullmatch(r"gh_([0-9A-Za-z]{8})_([0-9A-Za-z]{43})([0-9A-Za-z]{6})", minted.key)
    assert match
    assert match[1] == minted.key_id
    number = 0
    for digit in match[3]:
        number = number * 62 + BASE62.index(digit)
    assert number == zlib.crc32(minted.key[:-6].encode())


def test_256_random_bits_fit_into_the_secret() -> None:
    assert 62**42 < 2**256 <= 62**43


def test_a_minted_key_does_not_show_itself() -> None:
    minted = mint("gh")
    assert minted.key not in repr(minted)


@given(PREFIXES)
def test_every_minted_key_is_sound(prefix: str) -> None:
    assert kind_of(mint(prefix).key, prefix) is Kind.MINTED


def test_no_two_keys_are_alike() -> None:
    keys = [mint("gh") for _ in range(1000)]
    assert len({minted.key for minted in keys}) == len({minted.key_id for minted in keys}) == 1000


@pytest.mark.parametrize("prefix", ["gh", "g", "team-a1"])
def test_every_change_of_one_character_is_found(prefix: str) -> None:
    key = mint(prefix).key
    for place, now in enumerate(key):
        for other in PRINTABLE:
            if other != now:
                assert kind_of(key[:place] + other + key[place + 1 :], prefix) is Kind.MANGLED, (place, other)


@given(PREFIXES, st.data())
def test_so_is_a_change_to_a_character_of_any_script(prefix: str, data: st.DataObject) -> None:
    key = mint(prefix).key
    place = data.draw(st.integers(0, len(key) - 1))
    other = data.draw(st.characters().filter(lambda character: character != key[place]))
    assert kind_of(key[:place] + other + key[place + 1 :], prefix) is Kind.MANGLED


@given(st.data())
def test_two_neighbours_that_change_places_are_found(data: st.DataObject) -> None:
    key = mint("gh").key
    place = data.draw(st.integers(12, len(key) - 2))
    swapped = key[:place] + key[place + 1] + key[place] + key[place + 2 :]
    assert swapped == key or kind_of(swapped, "gh") is Kind.MANGLED


@pytest.mark.parametrize("key", ["", "sk-internal-dev-key-001", "gh_", "x" * 61, "\x00" * 61, "ü" * 61, "x" * 65536])
def test_other_strings_are_foreign(key: str) -> None:
    assert kind_of(key, "gh") is Kind.FOREIGN


@given(st.text())
def test_a_key_cut_short_or_with_something_added_is_not_minted(more: str) -> None:
    key = mint("gh").key
    assert kind_of(key[:-1], "gh") is Kind.FOREIGN
    assert not more or kind_of(key + more, "gh") is Kind.FOREIGN


@given(st.text(max_size=70), PREFIXES)
def test_whatever_comes_has_a_kind(text: str, prefix: str) -> None:
    assert kind_of(text, prefix) in Kind


def test_a_key_of_another_gateway_is_foreign() -> None:
    assert kind_of(mint("xy").key, "gh") is Kind.FOREIGN
