"""A JSON Web Token -> its claims, or why it is not valid. Pure: the keys and the time are arguments.

Follows RFC 8725 (JWT Best Current Practices): the issuer decides which algorithms and keys may be used (§3.1, §3.2,
§3.8), never the token; what a token says about where its key can be found (`jwk`, `jku`, `x5c`, `x5u`) is not read
(§3.10); its audience is checked (§3.9), and its type (§3.11). PyJWT checks the signature.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn

from jwt import PyJWK, PyJWS
from jwt.exceptions import PyJWTError

from authz_service.sso.jwks import Keys
from gatehouse.config.model import JwtIssuer

Claims = Mapping[str, Any]

_JWS = PyJWS(options={"verify_signature": True, "enforce_minimum_key_length": True})
_TYPES = ("jwt", "at+jwt")
_LAST_INSTANT = 2**53


class Reason(StrEnum):
    """Why a token is not valid; the values of the label `reason` of `api_jwt_refusals_total`."""

    MALFORMED = "malformed"
    ISSUER = "issuer"
    ALGORITHM = "algorithm"
    UNKNOWN_KEY = "unknown_key"
    SIGNATURE = "signature"
    AUDIENCE = "audience"
    LIFETIME = "lifetime"
    """It never expires, or is not valid yet."""
    USER = "user"
    """It names no user, or one whose name can't be used."""
    NO_KEYS = "no_keys"
    """Can't be decided: the issuer's keys are not known, or just being fetched."""


@dataclass(frozen=True, slots=True)
class TokenHeader:
    """What a token says about its own verification. None of it is verified yet."""

    issuer: str
    algorithm: str
    kid: str | None


def read(token: str) -> TokenHeader | None:
    """The header of `token`; None if it is no signed JWT, or has critical extensions.

    Never raises. RFC 7515 §4.1.11: a critical extension that is not understood is rejected; none is understood.
    """
    try:
        first, payload, _ = token.split(".")
        head, claims = _object(_decoded(first)), _object(_decoded(payload))
        header = TokenHeader(claims["iss"], head["alg"], head.get("kid"))
        kind = head.get("typ", "jwt").lower().removeprefix("application/")
    except (ValueError, KeyError, AttributeError, RecursionError):
        return None
    usable = isinstance(header.issuer, str) and isinstance(header.algorithm, str) and isinstance(header.kid, str | None)
    return header if usable and kind in _TYPES and not {"crit", "b64"} & head.keys() else None


def check(token: str, header: TokenHeader, settings: JwtIssuer, keys: Keys, now: float) -> Claims | Reason:
    """The claims of `token`, signed by the issuer of `settings` for us and valid by `now` (Unix seconds).

    Whether it has expired is not asked here, only that it will: `decide` asks that of keys and tokens alike.
    """
    if header.algorithm not in settings.algorithms:
        return Reason.ALGORITHM
    key = keys.find(header.kid, header.algorithm)
    if key is None:
        return Reason.UNKNOWN_KEY
    claims = _signed(token, key)
    if claims is None:  # a token that names no key may be signed with the next one
        return Reason.UNKNOWN_KEY if header.kid is None else Reason.SIGNATURE
    return _fault(claims, settings, now) or claims


def _signed(token: str, key: PyJWK) -> Claims | None:
    """The claims, when `key` signed them. They are read from what was signed, not from what was read before."""
    try:
        return _object(_JWS.decode(token, key, [key.algorithm_name]))
    except (PyJWTError, ValueError, RecursionError):
        return None


def _fault(claims: Claims, settings: JwtIssuer, now: float) -> Reason | None:
    if claims.get("iss") != settings.issuer:
        return Reason.ISSUER
    audience = claims.get("aud")
    if not any(ours in (audience if isinstance(audience, list) else [audience]) for ours in settings.audience):
        return Reason.AUDIENCE
    begins = (claims.get("nbf", 0), claims.get("iat", 0))
    if not all(map(_is_instant, (claims.get("exp"), *begins))) or max(begins) > now + settings.leeway_s:
        return Reason.LIFETIME
    return None


def _is_instant(value: object) -> bool:
    """RFC 7519 §2, NumericDate."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LAST_INSTANT


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "==")


def _object(text: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8 (RFC 8725 §3.7). Raises `ValueError` or `RecursionError` for anything else."""
    value = json.loads(text.decode(), parse_constant=_no_number)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _no_number(_constant: str) -> NoReturn:
    raise ValueError("JSON has no NaN and no Infinity")
