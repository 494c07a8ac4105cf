"""Which keys of an issuer's JWK Set may check tokens."""

import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from authz_service.sso.jwks import Keys, UnusableKeysError, keys
from testkit.identity_provider import ALGORITHMS, IdentityProvider

IDP = IdentityProvider()
RSA, EC, OKP = (IDP.keys[algorithm].jwk for algorithm in ALGORITHMS)


def of(*entries: Any, algorithms: tuple[str, ...] = ALGORITHMS) -> Keys:
    return keys(json.dumps({"keys": list(entries)}).encode(), algorithms)


def names(found: Keys) -> set[tuple[str, str]]:
    return set(found.named)


def test_each_key_checks_what_its_type_can() -> None:
    assert names(of(RSA, EC, OKP)) == {("RS256-1", "RS256"), ("ES256-1", "ES256"), ("EdDSA-1", "EdDSA")}


def test_a_key_that_names_no_algorithm_serves_all_that_are_configured_for_its_type() -> None:
    free = {name: value for name, value in RSA.items() if name not in ("alg", "use")}
    found = of(free, algorithms=("RS256", "PS256", "ES256"))
    assert names(found) == {("RS256-1", "RS256"), ("RS256-1", "PS256")}
    key = found.find("RS256-1", "PS256")
    assert key is not None
    assert key.algorithm_name == "PS256"


@pytest.mark.parametrize(
    "changed",
    [
        {"use": "enc"},
        {"use": None},
        {"key_ops": ["sign"]},
        {"key_ops": "verify"},
        {"alg": "RS512"},
        {"alg": "none"},
        {"alg": None},
        {"kty": "oct", "k": "c2VjcmV0"},
        {"kty": "EC"},
        {"kty": ["RSA"]},
        {"kty": None},
        {"n": ""},
        {"n": 7},
        {"n": "!!"},
        {"e": None},
        {"n": "AQAB"},
    ],
)
def test_a_key_for_something_else_or_a_broken_one_is_passed_over(changed: dict[str, Any]) -> None:
    assert names(of({**RSA, **changed}, EC)) == {("ES256-1", "ES256")}


@pytest.mark.parametrize("entry", [None, 7, "key", [], {}, {"kty": "RSA"}])
def test_an_entry_that_is_no_key_is_passed_over(entry: Any) -> None:
    assert names(of(entry, EC)) == {("ES256-1", "ES256")}


def test_a_key_without_a_usable_name_serves_tokens_that_name_none() -> None:
    for kid in (None, 7, ["a"]):
        found = of({**EC, "kid": kid})
        assert found.named == {}
        assert found.find(None, "ES256") is not None


def test_of_two_keys_with_one_name_the_first_counts() -> None:
    other = IdentityProvider().keys["RS256"].jwk
    assert RSA["n"] != other["n"]
    first, only = of(RSA, other).find("RS256-1", "RS256"), of(RSA).find("RS256-1", "RS256")
    assert first is not None
    assert only is not None
    assert first.key == only.key


def test_private_parts_that_were_published_by_mistake_are_not_kept() -> None:
    private = rsa.generate_private_key(65537, 2048)
    jwk = jwt.algorithms.RSAAlgorithm.to_jwk(private, as_dict=True)
    found = of({**jwk, "kid": "oops", "key_ops": ["verify"]}).find("oops", "RS256")
    assert found is not None
    assert isinstance(found.key, rsa.RSAPublicKey)


@pytest.mark.parametrize(
    "document", [b"", b"{}", b"[]", b"null", b'{"keys": 7}', b'{"keys": []}', b"\xff", b"[" * 100_000, b"<html>"]
)
def test_a_document_without_keys_is_an_error_that_does_not_quote_it(document: bytes) -> None:
    with pytest.raises(UnusableKeysError) as caught:
        keys(document, ALGORITHMS)
    assert "html" not in str(caught.value)


FIELD = st.none() | st.integers() | st.text(max_size=8) | st.lists(st.text(max_size=3), max_size=2)
ODD = st.dictionaries(st.sampled_from(["kty", "crv", "n", "e", "x", "y", "kid", "use", "alg", "key_ops"]), FIELD)


@given(st.sampled_from([RSA, EC, OKP]), ODD)
def test_an_odd_key_never_keeps_the_others_from_being_used(key: dict[str, Any], odd: dict[str, Any]) -> None:
    assert ("sound", "ES256") in names(of({**key, **odd}, {**EC, "kid": "sound"}))
