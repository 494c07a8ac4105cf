"""A key is kept as its digest, and no message about a key ever shows it."""

import hashlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.contract.key_digest import Hasher, beginning, digest_of, is_plain, key_digest, pepper_of

usable = st.text(
    sorted(set(string.ascii_letters + string.digits + string.punctuation) - {","}), min_size=8, max_size=512
)


def test_the_digest_is_sha_256_as_every_tool_computes_it() -> None:
    assert digest_of("abc") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@given(st.text())
def test_every_text_has_a_digest(key: str) -> None:
    assert digest_of(key) == "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def test_what_is_no_text_has_one_too_and_matches_none() -> None:
    assert digest_of("\udcff") not in {digest_of(key) for key in ("", "?", "\xff", "\ufffd")}


@given(usable.filter(is_plain))
def test_a_key_in_plain_text_becomes_its_digest(key: str) -> None:
    assert key_digest(key) == digest_of(key)


@given(usable)
def test_a_digest_stays_what_it_is_in_either_case(key: str) -> None:
    digest = digest_of(key)
    shouted = "sha256:" + digest.removeprefix("sha256:").upper()
    assert key_digest(digest) == key_digest(shouted) == digest
    assert not is_plain(digest)


UNUSABLE = [
    "",
    "short-1",
    "x" * 513,
    "with space",
    "with\ttab",
    "with\nline",
    "comma,comma",
    "schlüssel-1",
    "key-\x7f-key",
]


@pytest.mark.parametrize("key", UNUSABLE)
def test_a_key_that_no_client_could_send_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="8 to 512 visible ASCII characters") as refused:
        key_digest(key)
    assert not key or key not in str(refused.value)


@pytest.mark.parametrize(
    "digest", ["sha256:", "sha256:123", "sha256:" + "g" * 64, "sha256:" + "0" * 65, "sha256: " + "0" * 63]
)
def test_what_is_no_whole_digest_is_refused(digest: str) -> None:
    with pytest.raises(ValueError, match="gatehouse keys hash"):
        key_digest(digest)


@pytest.mark.parametrize("key", ["x" * 8, "x" * 512, "sk-internal-dev-key-001", "!~#$%&'()*+-./:;<=>?@[]^_`{|}"])
def test_the_shortest_the_longest_and_the_oddest_key_work(key: str) -> None:
    assert key_digest(key) == digest_of(key)


PEPPERS = {"1": b"a pepper of 16 b", "2": b"another of 16 by"}


def test_without_peppers_there_is_one_form() -> None:
    assert Hasher({}).digests("abc-abc-abc") == (digest_of("abc-abc-abc"),)
    assert Hasher({}).newest("abc-abc-abc") == digest_of("abc-abc-abc")


def test_a_peppered_digest_is_hmac_sha_256_as_every_tool_computes_it() -> None:
    """RFC 4231, test case 2."""
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert Hasher({"v": b"Jefe"}).newest("what do ya want for nothing?") == f"hmac-sha256:v:{expected}"


@given(st.text())
def test_a_key_is_looked_up_in_every_form_it_may_be_kept_in(key: str) -> None:
    forms = Hasher(PEPPERS).digests(key)
    assert forms[0] == digest_of(key)
    assert [form.rpartition(":")[0] for form in forms] == ["sha256", "hmac-sha256:1", "hmac-sha256:2"]
    assert len({form.rpartition(":")[2] for form in forms}) == 3


def test_new_keys_are_kept_under_the_last_pepper() -> None:
    assert Hasher(PEPPERS).newest("abc-abc-abc").startswith("hmac-sha256:2:")
    assert Hasher({"2": PEPPERS["2"], "1": PEPPERS["1"]}).newest("abc-abc-abc").startswith("hmac-sha256:1:")


def test_another_pepper_is_another_digest() -> None:
    assert Hasher({"1": b"x" * 16}).newest("abc-abc-abc") != Hasher({"1": b"y" * 16}).newest("abc-abc-abc")


@given(usable)
def test_a_peppered_digest_may_stand_in_a_configuration(key: str) -> None:
    digest = Hasher(PEPPERS).newest(key)
    head, _, hexadecimal = digest.rpartition(":")
    assert key_digest(digest) == key_digest(f"{head}:{hexadecimal.upper()}") == digest
    assert not is_plain(digest)
    assert (pepper_of(digest), pepper_of(digest_of(key))) == ("2", None)
    assert beginning(digest) == hexadecimal[:8]


@pytest.mark.parametrize(
    "digest",
    [
        "hmac-sha256:",
        "hmac-sha256:1:",
        "hmac-sha256:" + "0" * 64,
        "hmac-sha256::" + "0" * 64,
        "hmac-sha256:a b:" + "0" * 64,
    ],
)
def test_what_is_no_whole_peppered_digest_is_refused(digest: str) -> None:
    with pytest.raises(ValueError, match="gatehouse keys hash"):
        key_digest(digest)
