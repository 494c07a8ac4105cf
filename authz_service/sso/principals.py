"""Resolves a token: from the cache, or parsed, verified and mapped to a principal."""

import time
from collections.abc import Callable, Collection, Iterable

from authz_service.decide import Result
from authz_service.principals import Principal
from authz_service.sso.claims import principal
from authz_service.sso.issuer import Issuer
from authz_service.sso.metrics import NOBODY, Metrics
from authz_service.sso.token import Reason, TokenHeader, check, read
from authz_service.sso.verified import Verified
from gatehouse.contract.key_digest import digest_of

PATIENCE_S = 0.06
"""How long a request waits for keys that are being fetched. After 0.1 s Envoy would try another worker."""


class TokenPrincipals:
    """Resolves tokens to principals. `tiers` and `teams` are the configured ones."""

    def __init__(
        self,
        issuers: Iterable[Issuer],
        tiers: Collection[str],
        teams: Collection[str],
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._issuers = {issuer.settings.issuer: issuer for issuer in issuers}
        self._tiers, self._teams = tiers, teams
        self._metrics = metrics
        self._clock = clock
        self._verified = Verified()

    async def holder(self, token: str) -> Principal | Result:
        """The principal of `token`, even if expired by now; or INVALID, or UNAVAILABLE without the issuer's keys.

        Never raises. Waits up to `PATIENCE_S` if the issuer's keys may have changed, and is UNAVAILABLE beyond that.
        """
        digest = digest_of(token)
        known = self._verified.get(digest)
        return known if known is not None else await self._checked(token, digest)

    async def _checked(self, token: str, digest: str) -> Principal | Result:
        header = read(token)
        issuer = self._issuers.get(header.issuer) if header else None
        if header is None or issuer is None:
            return self._refused(NOBODY, Reason.ISSUER if header else Reason.MALFORMED)
        found = self._try(token, header, issuer, digest)
        if found in (Reason.UNKNOWN_KEY, Reason.NO_KEYS):
            newest = await issuer.newer(PATIENCE_S)
            found = self._try(token, header, issuer, digest)
            if found is Reason.UNKNOWN_KEY and not newest:
                found = Reason.NO_KEYS
        return found if isinstance(found, Principal) else self._refused(issuer.settings.label, found)

    def _try(self, token: str, header: TokenHeader, issuer: Issuer, digest: str) -> Principal | Reason:
        """With the keys there are now."""
        keys = issuer.keys
        if keys is None:
            return Reason.NO_KEYS
        claims = check(token, header, issuer.settings, keys, self._clock())
        if isinstance(claims, Reason):
            return claims
        found = principal(claims, issuer.settings, self._tiers, self._teams, digest)
        if found is None:
            return Reason.USER
        self._verified.put(issuer, keys, found)
        return found

    def _refused(self, issuer: str, reason: Reason) -> Result:
        self._metrics.refused(issuer, reason)
        return Result.UNAVAILABLE if reason is Reason.NO_KEYS else Result.INVALID
