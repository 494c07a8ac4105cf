"""What counts as a key in a request, and what never does."""

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.credential import MAX_KEY_LENGTH, MAX_TOKEN_LENGTH, Credential, Unusable, parse
from gatehouse.contract.key_digest import key_digest

KEY = "sk-internal-dev-key-001"
ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too
KEYS = st.from_regex(re.compile(r"[!-+\--~]{8,40}"), fullmatch=True)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer {KEY}"},
        {"authorization": f"BEARER   {KEY}"},
        {"x-api-key": KEY},
        {"authorization": f"Bearer {KEY}", "x-api-key": KEY},
        {"authorization": f"Bearer {KEY}", "x-request-id": "1"},
    ],
)
def test_a_key_is_read_from_either_header(headers: Mapping[str, str]) -> None:
    assert parse(headers) == Credential(KEY)


def test_no_header_is_a_missing_key() -> None:
    assert parse({"x-request-id": "1"}) is Unusable.MISSING


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        KEY,
        "Bearer",
        "Bearer ",
        f"Bearer{KEY}",
        f"Bearer\t{KEY}",
        f" Bearer {KEY}",
        f"Bearer {KEY} ",
        f"Bearer {KEY}\n",
        f"Bearer {KEY},Bearer {KEY}",
        f"Bearer {KEY}, Bearer {KEY}",
        f"Bearer {KEY} {KEY}",
        f"Bearer Bearer {KEY}",
        f"Basic {KEY}",
        f"Bearer {KEY}\0",
        f"Bearer {KEY}é",
        f"Bearer {KEY}\udcff",
        "Bearer " + "k" * (MAX_KEY_LENGTH + 1),
        "Bearer " + "k" * 65536,
        "Bearer" + " " * 65536,
    ],
    ids=lambda value: repr(value[:40]),
)
def test_f30_an_authorization_header_that_is_not_exactly_one_key_is_refused(value: str) -> None:
    assert parse({"authorization": value}) is Unusable.INVALID


@pytest.mark.parametrize("value", ["", f"{KEY} ", f" {KEY}", f"{KEY},{KEY}", f"Bearer {KEY}", "k" * 513, f"{KEY}\n"])
def test_f30_an_x_api_key_header_that_is_not_exactly_one_key_is_refused(value: str) -> None:
    assert parse({"x-api-key": value}) is Unusable.INVALID


@pytest.mark.parametrize("other", ["", "another-key", f"{KEY}x", f"{KEY},{KEY}"])
def test_two_headers_that_disagree_are_refused(other: str) -> None:
    assert parse({"authorization": f"Bearer {KEY}", "x-api-key": other}) is Unusable.INVALID
    assert parse({"authorization": f"Bearer {other}", "x-api-key": KEY}) is Unusable.INVALID


def test_the_longest_key_is_read() -> None:
    assert parse({"x-api-key": "k" * MAX_KEY_LENGTH}) == Credential("k" * MAX_KEY_LENGTH)


def token(length: int) -> str:
    return f"eyJh.{'b' * (length - 10)}.sign"


@pytest.mark.parametrize("length", [20, MAX_KEY_LENGTH, MAX_KEY_LENGTH + 1, MAX_TOKEN_LENGTH])
def test_a_json_web_token_may_be_longer_than_a_key(length: int) -> None:
    found = parse({"authorization": f"Bearer {token(length)}"})
    assert found == parse({"x-api-key": token(length)}) == Credential(token(length))
    assert isinstance(found, Credential)
    assert found.looks_like_a_token


@pytest.mark.parametrize(
    "value",
    [
        token(MAX_TOKEN_LENGTH + 1),
        token(65536),
        token(600).replace("eyJ", "eyK"),
        token(600) + ".more",
        token(600) + "=",
        token(600) + "\n",
        token(600) + "é",
        token(600) + "\u0663",
        token(600).replace(".b", ".+"),
        "eyJ" + "a" * 600,
        "eyJh.." + "a" * 600,
    ],
    ids=lambda value: repr(value[-40:]),
)
def test_what_is_longer_than_a_key_and_no_token_is_refused(value: str) -> None:
    assert parse({"authorization": f"Bearer {value}"}) is Unusable.INVALID


@pytest.mark.parametrize("key", [KEY, "eyJhbGciOi", "eyJh.b", "eyJh.b.c.d.e", "xeyJh.b.c"])
def test_a_key_does_not_look_like_a_token(key: str) -> None:
    assert not Credential(key).looks_like_a_token


def test_a_credential_does_not_print_its_key() -> None:
    assert KEY not in f"{Credential(KEY)!r} {Credential(KEY)}"


@given(KEYS)
def test_every_key_a_configuration_accepts_can_be_sent(key: str) -> None:
    key_digest(key)
    assert parse({"authorization": f"Bearer {key}"}) == parse({"x-api-key": key}) == Credential(key)


@given(st.dictionaries(st.sampled_from(["authorization", "x-api-key"]) | ANY_TEXT, ANY_TEXT))
def test_arbitrary_headers_never_raise(headers: Mapping[str, str]) -> None:
    parse(headers)


@given(
    scheme=st.sampled_from(["Bearer", "bearer", "Basic", "Token", "Bear\u0435r", ""]),
    gap=st.text(" \t\n,", max_size=3),
    key=KEYS | ANY_TEXT,
    tail=st.sampled_from(["", "", " ", "\n", "\0", ","]),
)
def test_what_is_read_is_all_that_followed_the_scheme(scheme: str, gap: str, key: str, tail: str) -> None:
    found = parse({"authorization": scheme + gap + key + tail})
    if isinstance(found, Credential):
        assert scheme.lower() == "bearer"
        assert (gap + key + tail).lstrip(" ") == found.key
        assert (gap + key).startswith(" ")
        assert found.key.isascii()
        assert found.key.isprintable()
        assert not set(" ,") & set(found.key)
