"""Which tokens prove something, and that the rest prove nothing, whatever they hold. After RFC 8725."""

import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from authz_service.sso.jwks import Keys, keys
from authz_service.sso.token import Claims, Reason, check, read
from gatehouse.config.model import JwtIssuer
from testkit.identity_provider import AUDIENCE, IdentityProvider, SigningKey, base64url

NOW = float(int(time.time()))  # as PyJWT has it, the oracle
IDP = IdentityProvider()
SETTINGS = JwtIssuer.model_validate({"issuer": IDP.issuer, "audience": AUDIENCE})
KEYS = keys(IDP.jwk_set(), SETTINGS.algorithms)
RSA = IDP.keys["RS256"]


def claims(**changed: Any) -> dict[str, Any]:
    return IDP.claims(**{"iat": int(NOW), "exp": int(NOW) + 600, **changed})


def checked(token: str, known: Keys = KEYS, settings: JwtIssuer = SETTINGS, now: float = NOW) -> Claims | Reason:
    said = read(token)
    return Reason.MALFORMED if said is None else check(token, said, settings, known, now)


def configured(**fields: Any) -> JwtIssuer:
    return JwtIssuer.model_validate({"issuer": IDP.issuer, "audience": AUDIENCE, **fields})


def handmade(header: Mapping[str, Any], payload: Mapping[str, Any], signature: bytes = b"") -> str:
    return f"{base64url(dict(header))}.{base64url(dict(payload))}.{base64url(signature)}"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_token_of_the_issuer_gives_its_claims(algorithm: str) -> None:
    assert checked(IDP.keys[algorithm].sign(claims(dept="search"))) == claims(dept="search")


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "", None, 0, ["RS256"]])
@pytest.mark.parametrize("signature", [b"", b"x"])
def test_an_unsigned_token_is_refused(alg: Any, signature: bytes) -> None:
    token = handmade({"alg": alg, "typ": "JWT", "kid": RSA.kid}, claims(), signature)
    assert checked(token) in (Reason.ALGORITHM, Reason.MALFORMED)


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
@pytest.mark.parametrize(("alg", "digest"), [("HS256", "sha256"), ("HS512", "sha512")])
def test_the_public_key_is_no_secret_to_sign_with(alg: str, digest: str, encoding: Encoding) -> None:
    secret = RSA.private.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
    signed = handmade({"alg": alg, "typ": "JWT", "kid": RSA.kid}, claims()).removesuffix(".")
    mac = hmac.new(secret, signed.encode(), getattr(hashlib, digest)).digest()
    assert checked(f"{signed}.{base64url(mac)}") is Reason.ALGORITHM
    as_rs256 = signed.replace(base64url({"alg": alg, "typ": "JWT", "kid": RSA.kid}), base64url({"alg": "RS256"}))
    assert checked(f"{as_rs256}.{base64url(mac)}") in (Reason.UNKNOWN_KEY, Reason.SIGNATURE)


def test_a_key_is_used_for_its_own_algorithm_only() -> None:
    everything = configured(algorithms=["RS256", "RS512", "PS256", "ES256", "EdDSA"])
    known = keys(IDP.jwk_set(), everything.algorithms)
    other = jwt.encode(claims(), RSA.private, "RS512", headers={"kid": RSA.kid})
    assert checked(other, known, everything) is Reason.UNKNOWN_KEY  # the JWK says alg: RS256
    swapped = IDP.keys["ES256"].sign(claims(), kid=RSA.kid)
    assert checked(swapped, known, everything) is Reason.UNKNOWN_KEY


def test_an_algorithm_that_is_not_configured_is_refused_though_the_issuer_has_a_key_for_it() -> None:
    only = configured(algorithms=["ES256"])
    assert checked(IDP.keys["EdDSA"].sign(claims()), settings=only) is Reason.ALGORITHM


@pytest.mark.parametrize("header", [{"jku": "http://evil/keys"}, {"x5u": "http://evil/c"}, {"x5c": ["MIIB"]}])
def test_what_a_token_says_of_where_its_key_is_does_not_count(header: Mapping[str, Any]) -> None:
    mine = SigningKey("RS256", RSA.kid)
    assert checked(mine.sign(claims(), **header)) is Reason.SIGNATURE
    assert checked(mine.sign(claims(), jwk=mine.jwk, kid="mine")) is Reason.UNKNOWN_KEY
    assert checked(mine.sign(claims(), jwk=mine.jwk)) is Reason.SIGNATURE


@pytest.mark.parametrize("crit", [["exp"], ["b64"], [], "exp", None, 7])
def test_a_critical_header_that_nobody_understands_is_refused(crit: Any) -> None:
    header = {"alg": "RS256", "kid": RSA.kid, "crit": crit, "exp": 1}
    signed = f"{base64url(header)}.{base64url(claims())}"
    assert checked(f"{signed}.{_rs256(signed)}") is Reason.MALFORMED


def test_an_unencoded_payload_is_refused() -> None:
    signed = f"{base64url({'alg': 'RS256', 'kid': RSA.kid, 'b64': False})}.{base64url(claims())}"
    assert checked(f"{signed}.{_rs256(signed)}") is Reason.MALFORMED


def _rs256(signed: str) -> str:
    algorithm = jwt.get_algorithm_by_name("RS256")
    return base64url(algorithm.sign(signed.encode(), RSA.private))


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+jwt", "AT+JWT", None])
def test_tokens_of_the_usual_types_are_taken(kind: str | None) -> None:
    assert checked(RSA.sign(claims(), typ=kind or "")) == claims()


@pytest.mark.parametrize("kind", ["logout+jwt", "secevent+jwt", "dpop+jwt", "JWE", 7, ["JWT"]])
def test_tokens_of_another_purpose_are_refused(kind: Any) -> None:
    signed = f"{base64url({'alg': 'RS256', 'kid': RSA.kid, 'typ': kind})}.{base64url(claims())}"
    assert checked(f"{signed}.{_rs256(signed)}") is Reason.MALFORMED


def test_a_token_that_names_no_key_is_checked_by_the_only_one_there_is() -> None:
    nameless = RSA.sign(claims(), kid=None)
    assert checked(nameless) == claims()
    another = SigningKey("RS256", "another")
    two = keys(json.dumps({"keys": [RSA.jwk, another.jwk]}).encode(), ["RS256"])
    assert checked(nameless, two) is Reason.UNKNOWN_KEY
    assert checked(SigningKey("RS256", None).sign(claims())) is Reason.UNKNOWN_KEY, "its issuer may have a new key"


@pytest.mark.parametrize("audience", ["other", ["other"], [], "", None, ["llm2"], {"llm": 1}, 7, "LLM", [["llm"]]])
def test_a_token_for_somebody_else_is_refused(audience: Any) -> None:
    assert checked(RSA.sign(claims(aud=audience))) is Reason.AUDIENCE


def test_one_common_audience_is_enough() -> None:
    assert checked(RSA.sign(claims(aud=["other", "llm"]))) == claims(aud=["other", "llm"])
    assert checked(RSA.sign(claims(aud="b")), settings=configured(audience=["a", "b"])) == claims(aud="b")


@pytest.mark.parametrize("issuer", ["https://evil.example", "", None, f"{IDP.issuer}/", IDP.issuer.upper()])
def test_a_token_that_names_another_issuer_is_not_this_ones(issuer: Any) -> None:
    assert checked(RSA.sign(claims(iss=issuer))) in (Reason.ISSUER, Reason.MALFORMED)


@pytest.mark.parametrize(
    "changed",
    [
        {"exp": None},
        {"exp": "4000000000"},
        {"exp": True},
        {"exp": -1},
        {"exp": 2**60},
        {"exp": [NOW]},
        {"nbf": NOW + 31},
        {"iat": NOW + 31},
        {"nbf": "soon"},
        {"nbf": 10**400},
    ],
)
def test_a_token_without_end_or_from_the_future_is_refused(changed: dict[str, Any]) -> None:
    assert checked(RSA.sign(claims(**changed))) is Reason.LIFETIME


@pytest.mark.parametrize("changed", [{"nbf": NOW + 29}, {"iat": NOW + 29}, {"nbf": 0, "exp": NOW + 0.5}, {"iat": None}])
def test_clocks_may_differ_by_the_leeway(changed: dict[str, Any]) -> None:
    assert checked(RSA.sign(claims(**changed))) == claims(**changed)


@pytest.mark.parametrize(
    "payload",
    [b"[]", b"null", b"7", b'"x"', b"", b"{", b'{"iss": NaN}', b"\xff\xfe", json.dumps({"iss": "x"}).encode("utf-16")],
)
def test_a_payload_that_is_no_json_object_in_utf_8_is_refused(payload: bytes) -> None:
    signed = f"{base64url({'alg': 'RS256', 'kid': RSA.kid})}.{base64url(payload)}"
    assert checked(f"{signed}.{_rs256(signed)}") is Reason.MALFORMED


@pytest.mark.parametrize("deep", [b"[" * 3000, b'{"a":' * 1200, b'{"iss":' + b"[" * 3000 + b"]" * 3000 + b"}"])
def test_deep_json_is_refused(deep: bytes) -> None:
    assert read(f"{base64url({'alg': 'RS256'})}.{base64url(deep)}.c2ln") is None
    assert read(f"{base64url(deep)}.{base64url(claims())}.c2ln") is None


@pytest.mark.parametrize("token", ["", ".", "..", "...", "a.b", "a.b.c.d.e", "eyJ.eyJ.eyJ", "é.é.é", "\udcff.a.b"])
def test_what_is_no_token_says_nothing(token: str) -> None:
    assert read(token) is None


def test_every_change_of_a_character_is_noticed() -> None:
    token = IDP.keys["EdDSA"].sign(claims())
    for at, character in enumerate(token):
        other = "A" if character != "A" else "B"
        assert isinstance(checked(token[:at] + other + token[at + 1 :]), Reason), at


def test_a_signature_of_another_token_does_not_fit() -> None:
    mine, theirs = RSA.sign(claims(sub="eve")), RSA.sign(claims(sub="root"))
    mixed = theirs.rsplit(".", 1)[0] + "." + mine.rsplit(".", 1)[1]
    assert checked(mixed) is Reason.SIGNATURE


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
HEADERS = st.fixed_dictionaries(
    {"alg": st.sampled_from(["RS256", "ES256", "EdDSA", "none", "HS256"]) | JSON},
    optional={"kid": st.sampled_from([key.kid for key in IDP.keys.values()]) | JSON, "typ": JSON, "crit": JSON},
)
PAYLOADS = st.fixed_dictionaries(
    {"iss": st.just(IDP.issuer) | JSON},
    optional={"aud": st.just("llm") | JSON, "exp": JSON, "nbf": JSON, "iat": JSON, "sub": JSON},
)


@given(HEADERS, PAYLOADS, st.binary(max_size=64), st.sampled_from(list(IDP.keys.values())))
def test_no_token_raises(header: Any, payload: Any, signature: bytes, key: SigningKey) -> None:
    checked(handmade(header, payload, signature))
    checked(key.sign(payload))  # signed, with whatever claims


@given(st.text(st.characters(exclude_categories=())) | st.from_regex(r"eyJ[\w.-]{0,60}", fullmatch=True))
def test_no_text_raises(text: str) -> None:
    assert isinstance(checked(text), Reason)


@given(st.data())
def test_whatever_is_taken_is_taken_by_pyjwt_too(data: st.DataObject) -> None:
    """PyJWT's own reading of the claims is the oracle."""
    odd = st.sampled_from([1, NOW + 600, 0, True, "x", None, "llm", ["llm"], ["x", "llm"], -5, NOW + 10**6])
    changed = {name: data.draw(odd) for name in ("exp", "aud", "nbf", "iat")}
    token = RSA.sign(claims(**{name: value for name, value in changed.items() if data.draw(st.booleans())}))
    found = checked(token)
    if isinstance(found, Reason):
        return
    options: Any = {"require": ["exp", "iss", "aud"], "verify_exp": False}
    theirs = jwt.decode(token, RSA.private.public_key(), ["RS256"], options, audience="llm", issuer=IDP.issuer)
    assert found == theirs


@pytest.mark.filterwarnings("ignore:The RSA key is 1024 bits")
def test_a_short_key_checks_nothing() -> None:
    weak = rsa.generate_private_key(65537, 1024)
    jwk = jwt.algorithms.RSAAlgorithm.to_jwk(weak.public_key(), as_dict=True)
    document = json.dumps({"keys": [{**jwk, "kid": "weak"}, RSA.jwk]}).encode()
    token = jwt.encode(claims(), weak, "RS256", headers={"kid": "weak"})
    assert checked(token, keys(document, ["RS256"])) is Reason.UNKNOWN_KEY


def test_a_key_on_another_curve_checks_nothing() -> None:
    other = ec.generate_private_key(ec.SECP384R1())
    jwk = jwt.algorithms.ECAlgorithm.to_jwk(other.public_key(), as_dict=True)
    document = json.dumps({"keys": [{**jwk, "kid": "c"}, RSA.jwk]}).encode()
    assert keys(document, ["RS256", "ES256"]).find("c", "ES256") is None
    assert keys(document, ["RS256", "ES384"]).find("c", "ES384") is not None
