"""What single sign-on counts."""

from collections.abc import Iterable

from prometheus_client import REGISTRY, CollectorRegistry, Counter

from authz_service.sso.token import Reason

NOBODY = "other"
"""The label of tokens whose issuer is none of the configured."""


class Metrics:
    """`api_jwks_refreshes_total{issuer,result}` and `api_jwt_refusals_total{issuer,reason}`; all count from 0."""

    def __init__(self, issuers: Iterable[str] = (), registry: CollectorRegistry = REGISTRY) -> None:
        self._refreshed = Counter(
            "api_jwks_refreshes_total", "Fetches of issuers' keys.", ["issuer", "result"], registry=registry
        )
        self._refused = Counter(
            "api_jwt_refusals_total", "Tokens refused, but for expiry.", ["issuer", "reason"], registry=registry
        )
        self._refreshes: dict[tuple[str, bool], Counter] = {}
        self._refusals = {(NOBODY, reason): self._refused.labels(NOBODY, reason) for reason in Reason}
        for issuer in issuers:
            self.know(issuer)

    def know(self, issuer: str) -> None:
        """Count `issuer` from now on."""
        for ok in (True, False):
            self._refreshes[issuer, ok] = self._refreshed.labels(issuer, "ok" if ok else "failed")
        for reason in Reason:
            self._refusals[issuer, reason] = self._refused.labels(issuer, reason)

    def refreshed(self, issuer: str, ok: bool) -> None:
        self._refreshes[issuer, ok].inc()

    def refused(self, issuer: str, reason: Reason) -> None:
        self._refusals[issuer, reason].inc()
