"""The errors that clients get when Envoy itself rejects or ends a request: one table, first match wins.

The renderer turns it into Envoy's `local_reply_config`; request records look up in it which error the client got. Envoy
gives the reason in `%RESPONSE_CODE_DETAILS%` and `%RESPONSE_FLAGS%` (Envoy documentation, "Response Code Details",
"Substitution format").
"""

from collections.abc import Collection
from dataclasses import dataclass

from gatehouse.contract import errors
from gatehouse.contract.errors import ClientError

OURS = ("direct_response", "ext_authz_denied", "request_rate_limited")
"""Details of responses that already have our errors: from a route, authz_service or ratelimit_service."""


@dataclass(frozen=True, slots=True)
class LocalError:
    """`error` is for local replies that meet all conditions given here: the details begin with `details`, they have
    one of `flags`, and the status is `status` with details that are not in `OURS`."""

    error: ClientError
    details: str = ""
    flags: tuple[str, ...] = ()
    status: int | None = None

    def answers(self, status: int, details: str, flags: Collection[str]) -> bool:
        """Whether a reply meets the conditions."""
        return (
            details.startswith(self.details)
            and (not self.flags or any(flag in flags for flag in self.flags))
            and (self.status is None or (self.status == status and details not in OURS))
        )


TABLE = (
    LocalError(errors.MODEL_NOT_ALLOWED, details="rbac_access_denied"),
    # a model's name with control characters, which are not allowed in a header
    LocalError(errors.MODEL_NOT_FOUND, details="filter_removed_required_request_headers"),
    LocalError(errors.OVERLOADED, details="overload"),
    LocalError(errors.ASKED_TOO_OFTEN, details="local_rate_limited"),
    LocalError(errors.NO_UPGRADE, details="upgrade_failed"),
    LocalError(errors.AUTH_UNAVAILABLE, flags=("UAEX",), status=503),
    LocalError(errors.LIMITS_UNAVAILABLE, flags=("RLSE",)),
    LocalError(errors.OVERLOADED, flags=("UO",)),
    LocalError(errors.BACKEND_UNAVAILABLE, flags=("UH", "UF", "URX", "UC", "UR", "LH", "NC")),
    LocalError(errors.REQUEST_TIMEOUT, status=408),
    LocalError(errors.TIMED_OUT, flags=("UT", "SI", "DT", "UMSDR")),
    LocalError(errors.OVERLOADED, flags=("OM",)),
    LocalError(errors.NOT_FOUND, flags=("NR",)),
    LocalError(errors.REQUEST_TOO_LARGE, status=413),
    LocalError(errors.UPGRADE_REQUIRED, status=426),
    LocalError(errors.HEADERS_TOO_LARGE, status=431),
    LocalError(errors.BAD_REQUEST, status=501),  # a Transfer-Encoding that Envoy does not know
    LocalError(errors.BACKEND_UNAVAILABLE, status=503),
)


def error_of(status: int, details: str, flags: Collection[str]) -> ClientError:
    """The error of a local reply. `status` may be Envoy's original one, or the one that the row then set, which Envoy
    logs: both give the same error."""
    found = (row.error for row in TABLE if row.answers(status, details, flags))
    return next(found, None) or otherwise(status)


def otherwise(status: int) -> ClientError:
    """Replies without a row keep their status: 4xx is the client's mistake, 5xx ours."""
    return errors.BAD_REQUEST if status < 500 else errors.GATEWAY_ERROR
