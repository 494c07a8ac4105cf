"""May this request pass: the whole decision, without I/O. Any transport can carry it."""

from collections.abc import Iterable
from enum import StrEnum
from hmac import compare_digest
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from authz_service.credential import Credential, Unusable
from authz_service.principals import Network, Principal, Principals
from gatehouse.keys.digest import PREFIX, digest_of


class Result(StrEnum):
    """How a check ended; the values of the label `result` of `api_auth_decisions_total`."""

    ALLOWED = "allowed"
    MISSING = "missing_api_key"
    INVALID = "invalid_api_key"
    EXPIRED = "expired"
    IP_NOT_AUTHORIZED = "ip_not_authorized"
    UNAVAILABLE = "auth_unavailable"
    """Nobody can say: the keys of the token's issuer are not known, or not yet."""
    ERROR = "error"
    """Nothing was decided: the service itself failed."""


class Decision(NamedTuple):
    """`principal` is whose key was shown, also when it is refused; None when it is nobody's."""

    result: Result
    principal: Principal | None = None


_NOBODY = PREFIX + "0" * 64
_MISSING, _INVALID = Decision(Result.MISSING), Decision(Result.INVALID)


def decide(credential: Credential | Unusable, client_ip: str, principals: Principals, now: float) -> Decision:
    """Whether the bearer of `credential`, a key, calling from `client_ip` at `now` (Unix seconds), may pass.

    A key is refused from the instant it expires at. That an address is not allowed is told only to who has the key.
    """
    if not isinstance(credential, Credential):
        return _MISSING if credential is Unusable.MISSING else _INVALID
    principal = _holder(credential.key, principals)
    return _INVALID if principal is None else admit(principal, client_ip, now)


def admit(principal: Principal, client_ip: str, now: float) -> Decision:
    """Whether `principal`, who is known by now, may pass from `client_ip` at `now`."""
    if now >= principal.expires_at:
        return Decision(Result.EXPIRED, principal)
    if principal.networks and not _within(client_ip, principal.networks):
        return Decision(Result.IP_NOT_AUTHORIZED, principal)
    return Decision(Result.ALLOWED, principal)


def _holder(key: str, principals: Principals) -> Principal | None:
    """Who has `key`: one hash, one look-up and one comparison, whether somebody has it or nobody."""
    digest = digest_of(key)
    principal = principals.get(digest)
    same = compare_digest(digest, principal.digest if principal else _NOBODY)
    return principal if same else None


def _within(client_ip: str, networks: Iterable[Network]) -> bool:
    try:
        address: IPv4Address | IPv6Address | None = ip_address(client_ip)
    except ValueError:
        return False
    if isinstance(address, IPv6Address):  # a dual-stack listener shows IPv4 clients as ::ffff:10.0.0.1
        address = address.ipv4_mapped or address
    return any(address in network for network in networks)
