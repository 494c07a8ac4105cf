"""A cache of verified tokens: each is verified once, and afterwards costs a hash and a look-up."""

from collections import OrderedDict
from dataclasses import dataclass

from authz_service.principals import Principal
from authz_service.sso.issuer import Issuer
from authz_service.sso.jwks import Keys

CAPACITY = 8192


@dataclass(frozen=True, slots=True)
class _Entry:
    principal: Principal
    issuer: Issuer
    keys: Keys


class Verified:
    """The `capacity` most recently used tokens, by digest; a change of an issuer's keys drops its tokens."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def get(self, digest: str) -> Principal | None:
        """The token's principal. The token may have expired since it was cached."""
        entry = self._entries.get(digest)
        if entry is None:
            return None
        if entry.issuer.keys is not entry.keys:
            del self._entries[digest]
            return None
        self._entries.move_to_end(digest)
        return entry.principal

    def put(self, issuer: Issuer, keys: Keys, principal: Principal) -> None:
        """Cache the principal of a token that was verified with `keys` of `issuer`."""
        self._entries[principal.digest] = _Entry(principal, issuer, keys)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)
