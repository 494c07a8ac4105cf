"""An issuer's JWK Set (RFC 7517) -> the keys that may check its tokens. Pure."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jwt import PyJWK
from jwt.exceptions import PyJWTError

from gatehouse.contract.failures import GatehouseError

_FITTING: Mapping[str, tuple[str, str | None]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", None)),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}
"""The `kty` and `crv` of a key by which an algorithm can be used (RFC 7518 §6, RFC 8037 §2)."""

_PUBLIC = ("kty", "crv", "n", "e", "x", "y")


class UnusableKeysError(GatehouseError, ValueError):
    """The document holds no key that could check a token. The message says why; it quotes nothing of the document."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys by id and algorithm. A token names the key it was signed with, unless its issuer has just one."""

    named: Mapping[tuple[str, str], PyJWK]
    only: Mapping[str, PyJWK]

    def find(self, kid: str | None, algorithm: str) -> PyJWK | None:
        """The one key that may check a token (OpenID Connect Core §10.1: without a `kid` there is no choice)."""
        return self.only.get(algorithm) if kid is None else self.named.get((kid, algorithm))


def keys(document: bytes, algorithms: Iterable[str]) -> Keys:
    """The keys of a JWK Set for `algorithms`. Raises `UnusableKeysError` when there is none.

    Keys for encryption, of other types, too short, or broken are passed over (RFC 7517 §5). Of two keys with the same
    id for the same algorithm the first counts.
    """
    entries = [entry for entry in _entries(document) if _signs(entry)]
    named: dict[tuple[str, str], PyJWK] = {}
    by_algorithm: dict[str, list[PyJWK]] = {}
    for algorithm in algorithms:
        for kid, key in _keys_for(algorithm, entries):
            by_algorithm.setdefault(algorithm, []).append(key)
            if isinstance(kid, str):
                named.setdefault((kid, algorithm), key)
    if not by_algorithm:
        raise UnusableKeysError("it holds no key for the configured algorithms")
    return Keys(named, {algorithm: found[0] for algorithm, found in by_algorithm.items() if len(found) == 1})


def _entries(document: bytes) -> list[dict[str, Any]]:
    try:
        found = json.loads(document.decode())
    except (ValueError, RecursionError):
        raise UnusableKeysError("it is not JSON") from None
    entries = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(entries, list):
        raise UnusableKeysError("it is no JWK Set: 'keys' is missing")
    return [entry for entry in entries if isinstance(entry, dict)]


def _signs(entry: Mapping[str, Any]) -> bool:
    """RFC 7517 §4.2, §4.3: a key may say what it is for."""
    operations = entry.get("key_ops", ["verify"])
    return entry.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations


def _keys_for(algorithm: str, entries: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Any, PyJWK]]:
    kty, crv = _FITTING[algorithm]
    for entry in entries:
        fits = entry.get("kty") == kty and crv in (None, entry.get("crv"))
        if fits and entry.get("alg", algorithm) == algorithm and (key := _key(entry, algorithm)):
            yield entry.get("kid"), key


def _key(entry: Mapping[str, Any], algorithm: str) -> PyJWK | None:
    """The public half of `entry`, bound to `algorithm`; None when it is broken or too short (RFC 7518 §3.3)."""
    try:
        key = PyJWK({name: entry[name] for name in _PUBLIC if name in entry}, algorithm)
        return None if key.Algorithm.check_key_length(key.key) else key
    except (PyJWTError, ValueError, TypeError, AttributeError, OverflowError):
        return None
