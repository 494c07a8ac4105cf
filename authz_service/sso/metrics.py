"""What single sign-on counts."""

from collections.abc import Iterable

from prometheus_client import REGISTRY, CollectorRegistry, Counter

from authz_service.sso.token import Reason

NOBODY = "other"
"""The label of tokens whose issuer is none of the configured."""


class Metrics:
    """`api_jwks_refreshes_total{issuer,result}` and `api_jwt_refusals_total{issuer,reason}`; all count from 0."""

    def __init__(self, issuers: Iterable[str], registry: CollectorRegistry = REGISTRY) -> None:
        labels = list(issuers)
        refreshes = Counter(
            "api_jwks_refreshes_total", "Fetches of issuers' keys.", ["issuer", "result"], registry=registry
        )
        refusals = Counter(
            "api_jwt_refusals_total", "Tokens refused, but for expiry.", ["issuer", "reason"], registry=registry
        )
        self._refreshes = {
            (issuer, ok): refreshes.labels(issuer, "ok" if ok else "failed")
            for issuer in labels
            for ok in (True, False)
        }
        self._refusals = {
            (issuer, reason): refusals.labels(issuer, reason) for issuer in (*labels, NOBODY) for reason in Reason
        }

    def refreshed(self, issuer: str, ok: bool) -> None:
        self._refreshes[issuer, ok].inc()

    def refused(self, issuer: str, reason: Reason) -> None:
        self._refusals[issuer, reason].inc()
