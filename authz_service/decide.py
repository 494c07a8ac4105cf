"""The whole decision whether a request is allowed, without I/O and independent of the transport."""

from collections.abc import Iterable
from enum import StrEnum
from hmac import compare_digest
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from authz_service.access import Access, Rules
from authz_service.credential import Credential, Unusable
from authz_service.principals import Network, Principal, Principals
from gatehouse.contract.key_digest import PREFIX, Hasher


class Result(StrEnum):
    """How a check ended; the values of the label `result` of `api_auth_decisions_total`."""

    ALLOWED = "allowed"
    MISSING = "missing_api_key"
    INVALID = "invalid_api_key"
    EXPIRED = "expired"
    REVOKED = "revoked"
    DISABLED = "disabled"
    IP_NOT_AUTHORIZED = "ip_not_authorized"
    UNAVAILABLE = "auth_unavailable"
    """Can't be decided: the key store, or the token's issuer, has not answered for too long."""
    TOO_MANY_FAILURES = "too_many_failures"
    """The address has used too many wrong keys."""
    ERROR = "error"
    """Nothing was decided: the service itself failed."""


class Decision(NamedTuple):
    """`principal` is the key's holder, also when rejected; None for an unknown key. `access` is set when allowed."""

    result: Result
    principal: Principal | None = None
    access: Access | None = None


_NOBODY = PREFIX + "0" * 64
_REVOKED = Principal(_NOBODY, user="", team="", tier="", key_id="", revoked=True)
_UNPEPPERED = Hasher({})
_MISSING, _INVALID = Decision(Result.MISSING), Decision(Result.INVALID)


def decide(
    credential: Credential | Unusable,
    client_ip: str,
    principals: Principals,
    rules: Rules,
    now: float,
    *,
    hasher: Hasher = _UNPEPPERED,
    stale: bool = False,
) -> Decision:
    """Whether a request with the key `credential` from `client_ip` at `now` (Unix seconds) is allowed.

    A key is rejected from the instant at which it expires. Only the holder of a valid key learns that an address is not
    allowed. `stale`: the key store has been silent for too long, so only keys in files can be decided.
    """
    if not isinstance(credential, Credential):
        return _MISSING if credential is Unusable.MISSING else _INVALID
    principal = _holder(hasher.digests(credential.key), principals)
    if stale and (principal is None or principal.only_in_store):
        return Decision(Result.UNAVAILABLE)
    if principal is None:
        admit(_REVOKED, client_ip, rules, now)  # takes as long as for a key that there is, and comes to the same
        return _INVALID
    return admit(principal, client_ip, rules, now)


def admit(principal: Principal, client_ip: str, rules: Rules, now: float) -> Decision:
    """Whether `principal` is allowed from `client_ip` at `now`."""
    if principal.revoked:
        return Decision(Result.REVOKED, principal)
    if now >= principal.expires_at:
        return Decision(Result.EXPIRED, principal)
    access = rules.of(principal)
    if access.disabled:
        return Decision(Result.DISABLED, principal)
    if not all(_within(client_ip, networks) for networks in (principal.networks, *access.networks) if networks):
        return Decision(Result.IP_NOT_AUTHORIZED, principal)
    return Decision(Result.ALLOWED, principal, access)


def _holder(digests: Iterable[str], principals: Principals) -> Principal | None:
    """The key's holder: one look-up and comparison for each form it may be stored in, even after a match."""
    holder = None
    for digest in digests:
        principal = principals.get(digest)
        same = compare_digest(digest, principal.digest if principal else _NOBODY)
        holder = principal if same else holder
    return holder


def _within(client_ip: str, networks: Iterable[Network]) -> bool:
    try:
        address: IPv4Address | IPv6Address | None = ip_address(client_ip)
    except ValueError:
        return False
    if isinstance(address, IPv6Address):  # a dual-stack listener shows IPv4 clients as ::ffff:10.0.0.1
        address = address.ipv4_mapped or address
    return any(address in network for network in networks)
